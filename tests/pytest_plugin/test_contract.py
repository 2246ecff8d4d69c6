"""The load contract: what breaks each part, how that is reported, and that nothing passes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sae_guard.core.report import CaseRef
from sae_guard.errors import Contract
from sae_guard.sae.activations import ReLU
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens
from tests.pytest_plugin.projects import CONTRACT, METADATA, PARTS, Project

THRESHOLDS = ("kl", "l0", "explained_variance")
NODE = "thresholds/tiny.yaml::tiny::"
OF_BATCH = """
    import torch
    from sae_guard.sae.activations import ReLU

    ReLU.__call__ = lambda self, q: torch.relu(q - q.mean(dim=0))
    """


def rewrite(folder: Path, *, drop: str = "", tensors: Any = None, **config: Any) -> None:
    """Write the good SAE with another config, and with tensors changed or dropped."""
    sae = identity_sae(32)
    changed = {**tensors_of(sae), **(tensors or {})}
    changed.pop(drop, None)
    metadata = {"metadata": METADATA, **config}
    write_saelens(folder, sae, config=config_of(sae, **metadata), tensors=changed)


def truncate(folder: Path) -> None:
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def narrow(folder: Path) -> None:  # a sound SAE of another model
    sae = identity_sae(16)
    write_saelens(folder, sae, config=config_of(sae, metadata=METADATA))


def infinite() -> Tensor:
    weights = identity_sae(32).W_dec.clone()
    weights[3, 4] = torch.inf
    return weights


LOADING: dict[str, tuple[Callable[[Path], None], str]] = {
    "readable": (truncate, "sae_weights.safetensors: unreadable: "),
    "keys": (lambda at: rewrite(at, drop="b_dec"), "missing: b_dec; expected exactly W_enc"),
    "shapes": (
        lambda at: rewrite(at, tensors={"b_enc": torch.zeros(63)}),
        "b_enc has shape [63], expected [64]",
    ),
    "finite": (
        lambda at: rewrite(at, tensors={"W_dec": infinite()}),
        "W_dec has 1 values that are not finite",
    ),
    "activation": (
        lambda at: rewrite(at, architecture="topk", k=65),
        "k is 65, allowed: 1 to 64, the number of latents",
    ),
    "threshold": (
        lambda at: rewrite(at, architecture="jumprelu", tensors={"threshold": -torch.ones(64)}),
        "thresholds are -1 to -1: they were never trained; allowed: none below 0",
    ),
    "scale": (
        lambda at: rewrite(at, normalize_activations="expected_average_only_in"),
        "normalize_activations is 'expected_average_only_in'",
    ),
}
"""Part that breaks while the checkpoint is loaded → damage and message."""
LOADED: dict[str, tuple[Callable[[Path], None], str]] = {
    "shapes": (narrow, "d_in is 16, but blocks.1.hook_resid_post of "),
    "metadata": (
        lambda at: rewrite(at, metadata={**METADATA, "prepend_bos": False}),
        "it was trained with prepend_bos false, the spec has `data: {prepend_bos: true}`",
    ),
}
"""Part that breaks after the checkpoint is loaded → damage and message."""
BEHAVIOUR = {
    "deterministic": (
        lambda self, q: torch.relu(q + torch.rand_like(q)),
        "the same activations give other latents the second time",
    ),
    "batch_mates": (
        lambda self, q: torch.relu(q - q.mean(dim=0)),
        "the latents of a token depend on the tokens beside it in the batch",
    ),
}
"""Part that no file can break → function that replaces ReLU, and message."""


def expect_broken(
    project: Project,
    result: pytest.RunResult,
    part: str,
    message: str,
    unchecked: Iterable[str] = (),
) -> None:
    """Assert that the part fails with this message; unchecked parts and thresholds point to it."""
    unchecked = {f"load.{name}[good]" for name in unchecked}
    broken = f"load.{part}[good]"
    assert result.ret == 2
    contract = {f"{name}[good]": "pass" for name in CONTRACT}
    contract |= dict.fromkeys(unchecked, "undecided") | {broken: "error"}
    assert project.verdicts("contract") == contract
    errors = {f"{metric}[good]" for metric in THRESHOLDS}
    assert project.verdicts() == dict.fromkeys(errors, "error")
    result.assert_outcomes(failed=1, passed=PARTS - 1 - len(unchecked), errors=3 + len(unchecked))
    lines = [line.split(" - ")[0] for line in result.outlines]
    assert [line for line in lines if line.startswith("FAILED ")] == [f"FAILED {NODE}{broken}"]
    pointing = {line.removeprefix(f"ERROR {NODE}") for line in lines if line.startswith("ERROR ")}
    assert pointing == errors | unchecked
    errors_printed = [line for line in result.outlines if line.startswith("load error: ")]
    (full,) = [line for line in errors_printed if "not measured" not in line]
    assert message in full
    pointers = [f"load error: not measured, see {NODE}{broken}"] * len(pointing)
    assert [line for line in errors_printed if line != full] == pointers
    passing = PARTS - 1 - len(unchecked)
    counts = f"{passing} passed, {len(unchecked)} not checked"
    summary = f"  load contract BROKEN: load.{part} failed; {counts}"
    assert summary in result.outlines
    result.stdout.no_fnmatch_line("*Traceback*")


def unchecked_parts(part: str) -> set[str]:
    """Return the parts that cannot be checked of an SAE that this part keeps from loading."""
    return set(get_args(Contract)) - {part, "readable"}


def test_every_part_has_a_checkpoint_that_breaks_it() -> None:
    assert {*LOADING, *LOADED, *BEHAVIOUR} == set(get_args(Contract))


@pytest.mark.parametrize("part", LOADING)
def test_a_part_that_breaks_while_loading(project: Project, part: str) -> None:
    damage, message = LOADING[part]
    damage(project.path / "good")
    result = project.run("--sae", "good", "--sae-json", "out.json")
    expect_broken(project, result, part, message, unchecked=unchecked_parts(part))


@pytest.mark.parametrize("part", LOADED)
def test_a_part_that_breaks_after_loading(project: Project, part: str) -> None:
    damage, message = LOADED[part]
    damage(project.path / "good")
    result = project.run("--sae", "good", "--sae-json", "out.json")
    expect_broken(project, result, part, message)


@pytest.mark.parametrize("part", BEHAVIOUR)
def test_a_part_that_the_behaviour_breaks(
    project: Project, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    activation, message = BEHAVIOUR[part]
    monkeypatch.setattr(ReLU, "__call__", activation)
    result = project.run("--sae", "good", "--sae-json", "out.json")
    noise = ("batch_mates",) if part == "deterministic" else ()  # noise would be blamed on them
    expect_broken(project, result, part, message, unchecked=noise)


def test_an_activation_over_the_whole_batch_breaks_batch_mates(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchTopK as in training: the k · n largest of all n tokens."""

    def batch_topk(self: ReLU, q: Tensor) -> Tensor:
        least = q.flatten().topk(4 * len(q)).values[-1]
        return torch.relu(q) * (q >= least)

    monkeypatch.setattr(ReLU, "__call__", batch_topk)
    result = project.run("--sae", "good", "--sae-json", "out.json")
    expect_broken(project, result, "batch_mates", BEHAVIOUR["batch_mates"][1])


@pytest.mark.parametrize("part", ["keys", pytest.param("batch_mates", marks=pytest.mark.slow)])
def test_a_broken_part_in_a_run_with_workers(project: Project, part: str) -> None:
    args = ("--sae", "good", "--sae-json", "out.json", "-n2", "--dist", "loadfile")
    if part == "batch_mates":
        result = project.run_damaged(OF_BATCH, *args)
        expect_broken(project, result, part, BEHAVIOUR[part][1])
    else:
        damage, message = LOADING[part]
        damage(project.path / "good")
        expect_broken(project, project.run(*args), part, message, unchecked=unchecked_parts(part))


@pytest.mark.parametrize("part", ["keys", "metadata", "deterministic", "batch_mates"])
def test_a_deselected_contract_is_checked_nevertheless(
    project: Project, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part in BEHAVIOUR:
        activation, message = BEHAVIOUR[part]
        monkeypatch.setattr(ReLU, "__call__", activation)
    else:
        damage, message = {**LOADING, **LOADED}[part]
        damage(project.path / "good")
    result = project.run("--sae", "good", "-k", "kl or l0")
    assert result.ret == 2
    result.assert_outcomes(errors=2, deselected=PARTS + 1)
    errors_printed = [line for line in result.outlines if line.startswith("load error: ")]
    assert message in errors_printed[0]
    assert errors_printed[1:] == [f"load error: not measured, see {NODE}kl[good]"]


def test_the_report_has_every_part_of_the_contract(project: Project) -> None:
    LOADING["finite"][0](project.path / "good")
    project.run("--sae", "good", "--sae", "bad", "--sae-json", "out.json")
    good, bad = project.report().cases
    assert good.case == CaseRef("thresholds/tiny.yaml", "tiny", "good")
    for case in (good, bad):
        assert [part.test for part in case.contracts] == [*CONTRACT]
    (broken,) = [part for part in good.contracts if part.status == "error"]
    assert (broken.contract, broken.cause) == ("finite", "load")
    assert "W_dec has 1 values that are not finite" in broken.message
    assert (good.sample, good.provenance, good.metrics) == (None, None, ())
    assert {(part.status, part.cause, part.message) for part in bad.contracts} == {
        ("pass", None, "")
    }


def test_junit_has_a_failure_for_the_broken_part_and_errors_for_others(
    project: Project,
) -> None:
    LOADING["keys"][0](project.path / "good")
    project.run("--sae", "good", "--junitxml", "junit.xml")
    root = ET.parse(project.path / "junit.xml").getroot()
    failed = [
        case.get("name") for case in root.iter("testcase") if case.find("failure") is not None
    ]
    errors = [case.get("name") for case in root.iter("testcase") if case.find("error") is not None]
    assert failed == ["load.keys[good]"]
    assert len(errors) == len(unchecked_parts("keys")) + len(THRESHOLDS)
    case = root.find(".//testcase[@name='load.keys[good]']")
    assert case is not None
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["sae_guard.kind"] == "contract"


def test_controls_have_no_contract(project: Project) -> None:
    result = project.run("--sae", "good", "--sae-controls", "--collect-only", "-q")
    nodes = [line for line in result.outlines if "::" in line]
    assert [n for n in nodes if "::load." in n] == [f"{NODE}{name}[good]" for name in CONTRACT]
    assert f"{NODE}kl[control:identity]" in nodes


def test_a_part_can_be_run_alone(project: Project) -> None:
    result = project.run("--sae", "good", f"{NODE}load.finite[good]")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    assert "  load contract: 1 of 1 checks passed" in result.outlines


def test_a_part_that_could_not_be_checked_is_no_verdict(project: Project) -> None:
    weights = project.path / "good" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    result = project.run("--sae", "good", "-k", "load.finite")
    assert result.ret == 2


def test_an_unreadable_config_breaks_the_first_part(project: Project) -> None:
    (project.path / "good" / "cfg.json").write_text("{")
    result = project.run("--sae", "good")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["load error: *cfg.json: unreadable config: *"])
