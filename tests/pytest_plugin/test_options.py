"""Options on the SAE complete a checkpoint and a spec, and must not contradict them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens
from tests.pytest_plugin.projects import CONTRACT, HOOK, METADATA, PARTS, Project

USAGE, NO_VERDICT = 4, 2
COMPLETE = ("--sae-arch", "standard", "--sae-pre-bias", "false", "--sae-norm", "none")
TOPK = ("--sae-arch", "topk", "--sae-k", "3", "--sae-pre-bias", "true", "--sae-norm", "layer_norm")


@pytest.fixture
def plain(project: Project) -> Project:
    """Project with ``plain.pt``: the tensors of the good SAE, without metadata."""
    torch.save(tensors_of(identity_sae(32)), project.path / "plain.pt")
    return project


def error_of(result: pytest.RunResult) -> str:
    """Return the text of a usage error."""
    assert result.ret == USAGE
    text = result.stderr.str()
    assert "ERROR: " in text
    assert "Traceback" not in text
    return text


def checkpoint_of(project: Project) -> dict[str, Any]:
    """Return the facts on the checkpoint in the provenance."""
    provenance = project.cases()["plain"].provenance
    assert provenance is not None
    return dict(provenance.checkpoint)


def test_a_state_dict_without_options_is_ambiguous(plain: Project) -> None:
    result = plain.run("--sae", "plain.pt", "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    assert plain.verdicts("contract")["load.activation[plain]"] == "error"
    result.stdout.fnmatch_lines(
        [
            f"load error: {plain.path}/plain.pt is ambiguous; decide in the spec:",
            "  sae.architecture: standard or topk *",
            "  sae.pre_bias: *",
            "  sae.normalize: *",
        ]
    )


def test_options_complete_a_state_dict(plain: Project, mode: tuple[str, ...]) -> None:
    args = ("--sae", "plain.pt", "--sae-json", "out.json", "--sae-hook", HOOK)
    result = plain.run(*args, *COMPLETE, *mode)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=PARTS + 3)
    assert plain.verdicts()["kl[plain]"] == "pass"
    facts = {"architecture": "standard", "k": None, "pre_bias": False, "normalize": "none"}
    assert facts.items() <= checkpoint_of(plain).items()


def test_options_of_a_topk_sae_reach_the_provenance(plain: Project) -> None:
    args = ("--sae", "plain.pt", "--sae-json", "out.json", "--sae-scale", "0.5")
    result = plain.run(*args, *TOPK)
    assert result.ret == 1  # three latents of 64 reconstruct too little
    facts = {
        "architecture": "topk", "k": 3, "pre_bias": True, "normalize": "layer_norm",
        "scale_in": 0.5, "scale_out": 0.5,
    }  # fmt: skip
    assert facts.items() <= checkpoint_of(plain).items()
    assert plain.outcomes()["l0[plain]"].value == 3


def test_options_of_spec_and_command_line_are_merged(plain: Project) -> None:
    block = "sae: {architecture: standard, pre_bias: false}\nhook:"
    plain.write_spec(plain.spec.replace("hook:", block))
    result = plain.run("--sae", "plain.pt", "--sae-norm", "none", "--sae-pre-bias", "false")
    assert result.ret == 0


def test_options_apply_to_default_checkpoints_too(plain: Project) -> None:
    plain.write_spec(plain.spec.replace("hook:", "checkpoint: ../plain.pt\nhook:"))
    assert plain.run().ret == NO_VERDICT
    plain.run(*COMPLETE).assert_outcomes(passed=PARTS + 3)


@pytest.mark.parametrize(
    ("block", "option", "value", "message"),
    [
        ("architecture: topk", "--sae-arch", "jumprelu", "architecture is 'topk' by {} and 'jump"),
        ("k: 3", "--sae-k", "4", "k is 3 by {} and 4 by the command line"),
        ("pre_bias: true", "--sae-pre-bias", "false", "pre_bias is True by {} and False by the"),
        ("normalize: none", "--sae-norm", "layer_norm", "normalize is 'none' by {} and 'layer_"),
        ("scale: 2.0", "--sae-scale", "folded", "scale is 2.0 by {} and 'folded' by the command"),
    ],
)
def test_an_option_that_contradicts_the_spec_is_a_usage_error(
    project: Project, block: str, option: str, value: str, message: str
) -> None:
    project.write_spec(project.spec.replace("hook:", f"sae: {{{block}}}\nhook:"))
    text = error_of(project.run("--sae", "good", option, value))
    assert message.format("the `sae` block of tiny.yaml::tiny") in text
    assert f"{project.path}/good: " in text


@pytest.mark.parametrize(
    ("option", "value", "part", "message"),
    [
        ("--sae-arch", "topk", "activation", "says architecture 'standard', the `sae` options say"),
        ("--sae-norm", "layer_norm", "activation", "says normalize 'none', the `sae` options say"),
        ("--sae-scale", "0.5", "scale", "has scale 1, the `sae` options say 0.5"),
    ],
)
def test_an_option_that_contradicts_the_checkpoint_is_a_load_error(
    project: Project, option: str, value: str, part: str, message: str
) -> None:
    result = project.run("--sae", "good", option, value, "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    assert project.verdicts("contract")[f"load.{part}[good]"] == "error"
    result.stdout.fnmatch_lines([f"load error: {project.path}/good/cfg.json {message}*"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sae-arch", "relu", "architecture 'relu'; allowed: standard, tanh_relu, topk, "),
        ("--sae-k", "0", "--sae-k '0'; allowed: a whole number from 1 on"),
        ("--sae-k", "2.5", "--sae-k '2.5'; allowed: a whole number from 1 on"),
        ("--sae-pre-bias", "yes", "--sae-pre-bias 'yes'; allowed: true, false"),
        ("--sae-norm", "unit", "normalize 'unit'; allowed: none, constant_norm_rescale, layer_n"),
        ("--sae-scale", "-1", "scale -1.0; allowed: a number above 0, folded, stored"),
        ("--sae-scale", "nan", "scale nan; allowed: a number above 0, folded, stored"),
        ("--sae-scale", "inf", "scale inf; allowed: a number above 0, folded, stored"),
        ("--sae-scale", "half", "scale 'half'; allowed: a number above 0, folded, stored"),
    ],
)
def test_an_invalid_value_is_a_usage_error(
    project: Project, option: str, value: str, message: str
) -> None:
    text = error_of(project.run("--sae", "good", f"{option}={value}"))
    assert message in text
    assert option in text


OTHER = "blocks.0.hook_resid_post"


def test_the_hook_option_completes_a_checkpoint_without_hook_point(plain: Project) -> None:
    first = plain.spec.replace("name: tiny", "name: first").replace(HOOK, OTHER)
    plain.write_spec(f"{first}---\n{plain.spec}")
    text = error_of(plain.run("--sae", "plain.pt", *COMPLETE))
    assert "does not declare its model and hook point, and several specs could gate it" in text
    assert text.rstrip().endswith("(--sae-spec, --sae-hook)")
    for hook, name in ((HOOK, "tiny"), (OTHER, "first")):
        nodes = plain.run("--sae", "plain.pt", "--sae-hook", hook, "--collect-only", "-q").outlines
        assert nodes[0] == f"thresholds/tiny.yaml::{name}::load.readable[plain]"
        assert not any("::tiny" in node for node in nodes if name == "first")


@pytest.mark.parametrize("hook", [OTHER, f"{HOOK}:blocks.1.hook_mlp_out", "nothing", ":", ""])
def test_a_hook_option_that_no_spec_has_is_a_usage_error(plain: Project, hook: str) -> None:
    text = error_of(plain.run("--sae", "plain.pt", f"--sae-hook={hook}", *COMPLETE))
    assert f"no spec gates {plain.path}/plain.pt:" in text
    assert f"tiny.yaml::tiny ({plain.model}, {HOOK}): it" in text


@pytest.mark.parametrize("hook", [OTHER, f"{OTHER}:{HOOK}"])
def test_the_hook_option_must_not_contradict_the_checkpoint(project: Project, hook: str) -> None:
    text = error_of(project.run("--sae", "good", "--sae-hook", hook))
    assert f"{project.path}/good declares hook point {HOOK}," in text
    assert f" {hook} (--sae-hook)" in text


def test_the_hook_option_must_not_contradict_the_replaced_hook_point(project: Project) -> None:
    sae = identity_sae(32)
    metadata = {**METADATA, "hook_name_out": "blocks.1.hook_mlp_out"}
    config = config_of(sae, metadata=metadata, architecture="transcoder", d_out=32)
    write_saelens(project.path / "good", sae, config=config)
    for hook in (HOOK, f"{HOOK}:{OTHER}"):
        text = error_of(project.run("--sae", "good", "--sae-hook", hook))
        assert "declares hook point blocks.1.hook_mlp_out," in text
        assert f" {hook} (--sae-hook)" in text


def test_the_hook_option_may_repeat_the_hook_point_of_the_checkpoint(project: Project) -> None:
    assert project.run("--sae", "good", "--sae-hook", HOOK).ret == 0


def test_a_reference_to_a_named_sae_in_a_file_with_one_sae_is_an_error(project: Project) -> None:
    result = project.run("--sae", "good#layer_3", "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    assert project.verdicts("contract")["load.readable[good#layer_3]"] == "error"
    message = "good#layer_3: a SAELens 6 checkpoint holds one SAE, without a name; remove #layer_3"
    result.stdout.fnmatch_lines([f"load error: {project.path}/{message}"])


def write_two(path: Path) -> None:
    """Write the good SAE and one that outputs 0, in the format of AI Safety Foundation."""
    sae = identity_sae(32)
    W_dec = sae.W_dec.T.contiguous()
    tensors = {
        "tied_bias": torch.zeros(2, 32),
        "encoder.weight": torch.stack([sae.W_enc.T] * 2),
        "encoder.bias": torch.zeros(2, 64),
        "decoder.weight": torch.stack([W_dec, torch.zeros_like(W_dec)]),
    }
    torch.save(tensors, path)


def test_two_saes_of_one_file_are_gated_by_their_index(project: Project) -> None:
    write_two(project.path / "two.pt")
    args = ("--sae", "two.pt#0", "--sae", "two.pt#1", "--sae-json", "out.json")
    result = project.run(*args, "--sae-arch", "standard")
    assert result.ret == 1
    result.assert_outcomes(passed=2 * PARTS + 4, failed=2)
    verdicts = project.verdicts()
    assert (verdicts["kl[two#0]"], verdicts["kl[two#1]"]) == ("pass", "fail")
    contract = project.verdicts("contract")
    assert set(contract) == {f"{part}[two#{i}]" for part in CONTRACT for i in (0, 1)}
    result = project.run("--sae", "two.pt", "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    result.stdout.fnmatch_lines(["load error: */two.pt holds 2 SAEs; say which: */two.pt#0 or *"])


def test_a_hub_reference_is_an_error_offline(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(project.path / "hub"))
    reference = "hf://someone/saes/layer_3@main"
    result = project.pytester.runpytest_subprocess("--sae", reference)
    assert result.ret == NO_VERDICT
    text = result.stdout.str() + result.stderr.str()
    assert f"{reference} is not in the cache {project.path / 'hub'} and cannot be" in text
    assert "Traceback" not in text
    assert not (project.path / "hub").exists()
