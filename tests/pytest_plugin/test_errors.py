"""What is no verdict on the SAE: usage, collection, setup and load errors, with distinct codes."""

from __future__ import annotations

import json

import pytest

from tests.helpers.tiny_models import make_tokenizer
from tests.pytest_plugin.projects import HOOK, PARTS, Project

USAGE, NO_VERDICT = 4, 2


def test_a_checkpoint_that_is_not_there(project: Project) -> None:
    result = project.run("--sae", "godd")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["*sae_guard: no checkpoint at */godd; *did you mean good?*"])


def test_a_checkpoint_in_a_project_without_specs_is_a_usage_error(project: Project) -> None:
    (project.path / "thresholds" / "tiny.yaml").unlink()
    result = project.run("--sae", "good")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["*no spec gates good: no file in * matches thresholds/[*].yaml*"])


def test_a_checkpoint_that_no_spec_gates(project: Project) -> None:
    project.write_spec(project.spec.replace(HOOK, "blocks.0.hook_resid_post"))
    result = project.run("--sae", "good")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["*no spec gates */good:", f"*its hook point is {HOOK}*"])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["plain", "-n2"])
def test_a_malformed_spec_is_a_collection_error(project: Project, workers: tuple[str, ...]) -> None:
    project.write_spec(project.spec.replace("max: 0.1", "max: 1e-3"))
    result = project.run("--sae", "good", *workers)
    assert result.ret not in (0, 5)
    assert "thresholds/tiny.yaml:6: '1e-3' is read as text" in result.stdout.str()
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_malformed_spec_hides_no_other_verdict(project: Project) -> None:
    project.write_spec("a: [", "broken.yaml")
    result = project.run("--sae", "good", "--continue-on-collection-errors")
    result.assert_outcomes(passed=PARTS + 3, errors=1)
    assert result.ret != 0


SETUP = {
    "an unknown hook": (HOOK, "blocks.1.hook_resid_pots", "did you mean blocks.1.hook_resid_post"),
    "a missing model": ("model: {name: ", "model: {name: ./no", "is not a model folder"),
    "missing text": ("text.txt", "gone.txt", "no file matches '../gone.txt'"),
    "too little text": ("sequences: 8", "sequences: 9999", "add text or lower `sequences`"),
    "a strange loss": ("context: 16", "context: 16, expect_clean_ce: [0, 1]", "clean cross-entr"),
}


@pytest.mark.parametrize("case", SETUP)
def test_a_setup_error_is_printed_once_and_is_no_verdict(project: Project, case: str) -> None:
    old, new, message = SETUP[case]
    project.write_spec(project.spec.replace(old, new))
    if case == "an unknown hook":
        config = json.loads((project.path / "good/cfg.json").read_text())
        config["metadata"]["hook_name"] = new
        (project.path / "good/cfg.json").write_text(json.dumps(config))
    result = project.run("--sae", "good", "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    without_model = case in ("an unknown hook", "a missing model")
    broken = {"load.shapes[good]"} if without_model else set()  # what needs a model of the contract
    result.assert_outcomes(passed=PARTS - len(broken), errors=3 + len(broken))
    assert set(project.verdicts().values()) == {"error"}
    passing = {n for n, status in project.verdicts("contract").items() if status == "pass"}
    assert passing == project.verdicts("contract").keys() - broken
    errors = [line for line in result.outlines if line.startswith("setup error: ")]
    assert message in errors[0]
    first = broken.pop() if without_model else "kl[good]"
    pointer = f"setup error: not measured, see thresholds/tiny.yaml::tiny::{first}"
    assert errors[1:] == [pointer] * (len(errors) - 1)
    assert len(errors) == (4 if without_model else 3)
    assert "BROKEN" not in result.stdout.str()
    result.stdout.no_fnmatch_line("*Traceback*")


def test_specs_that_share_a_measurement_print_its_error_once(project: Project) -> None:
    spec = project.spec.replace("text.txt", "gone.txt")
    project.write_spec(f"{spec}---\n{spec.replace('name: tiny', 'name: again')}")
    result = project.run("--sae", "good")
    assert result.ret == NO_VERDICT
    errors = [line for line in result.outlines if line.startswith("setup error: ")]
    assert "no file matches" in errors[0]
    pointer = "setup error: not measured, see thresholds/tiny.yaml::tiny::kl[good]"
    assert errors[1:] == [pointer] * 5


def test_a_broken_checkpoint_is_an_error_even_beside_a_failing_one(project: Project) -> None:
    weights = project.path / "good/sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    result = project.run("--sae", "good", "--sae", "bad")
    assert result.ret == NO_VERDICT  # though bad has crossed its thresholds
    result.assert_outcomes(errors=PARTS - 1 + 3, failed=1 + 2, passed=PARTS + 1)
    result.stdout.fnmatch_lines(["load error: *sae_weights.safetensors: unreadable: *"])


def test_an_undefined_metric_is_no_verdict(project: Project) -> None:
    """The windows have enough tokens, but too few of them are scored."""
    (the,) = make_tokenizer()(" the")["input_ids"]
    text = project.spec.replace("sequences: 8", f"sequences: 72, special_tokens: [0, {the}]")
    project.write_spec(text + "  dense_latents: {max: 0.5}\n")
    result = project.run("--sae", "good")
    assert result.ret == NO_VERDICT
    result.stdout.fnmatch_lines(
        [
            "dense_latents: no verdict (setup error): dense_latents needs 1,000 scored tokens, * "
            "were measured: raise `sequences` or `context` in the spec"
        ]
    )


def test_too_few_tokens_for_a_metric_are_an_error_of_the_spec(project: Project) -> None:
    project.write_spec(project.spec + "  dead_latents: {max: 0.5}\n")
    result = project.run("--sae", "good")
    assert result.ret == NO_VERDICT
    result.stdout.fnmatch_lines(
        [
            "thresholds/tiny.yaml:9: dead_latents needs 10,000 scored tokens, 8 windows of "
            "16 have 112 at most; `sequences: 715` would do"
        ]
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--sae-device", "tpu"), "--sae-device 'tpu'; allowed: auto, cpu, mps, cuda, cuda:N"),
        (("--sae-batch-size", "0"), "--sae-batch-size '0'; allowed: a whole number from 1 on"),
    ],
)
def test_invalid_values_are_usage_errors(
    project: Project, args: tuple[str, ...], message: str
) -> None:
    result = project.run("--sae", "good", *args)
    assert result.ret == USAGE
    assert message in result.stderr.str()


def test_a_device_that_the_machine_lacks_is_a_setup_error(project: Project) -> None:
    result = project.run("--sae", "good", "--sae-device", "cuda:63")
    assert result.ret == NO_VERDICT
    result.stdout.fnmatch_lines(["setup error: device cuda:63: this machine has * CUDA*"])


def test_a_bug_keeps_its_traceback(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_guard import engine

    monkeypatch.setattr(engine, "measure", lambda *args, **kwargs: 1 / 0)
    result = project.run("--sae", "good")
    assert result.ret != 0
    result.assert_outcomes(passed=PARTS, errors=3)
    result.stdout.fnmatch_lines(["*ZeroDivisionError*"])


def test_json_that_cannot_be_written_is_no_pass(project: Project) -> None:
    (project.path / "file").write_text("")
    result = project.run("--sae", "good", "--sae-json", "file/out.json")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["*--sae-json file/out.json: *"])
    (project.path / "folder").mkdir()
    result = project.run("--sae", "good", "--sae-json", "folder")
    assert result.ret == NO_VERDICT
    result.stderr.fnmatch_lines(["*--sae-json */folder cannot be written: *"])
