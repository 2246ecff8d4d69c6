"""Metadata of a checkpoint that contradict the spec; transcoders, with two hook points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sae_guard
from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens
from tests.pytest_plugin.projects import (
    CONTRACT,
    HOOK,
    METADATA,
    PARTS,
    Project,
    write_likely_tokens,
)

READ, WRITTEN = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
DATA = "prepend_bos: true"
WITHOUT_HOOK = {"sae_lens_version": "6.0.0", "model_name": "tiny"}


def expect_metadata_broken(project: Project, message: str, *args: str) -> None:
    """Assert that only ``metadata`` is broken, with this message, and thresholds point to it."""
    result = project.run("--sae", "good", "--sae-json", "out.json", *args)
    assert result.ret == 2
    contract = dict.fromkeys((f"{part}[good]" for part in CONTRACT), "pass")
    assert project.verdicts("contract") == {**contract, "load.metadata[good]": "error"}
    result.assert_outcomes(failed=1, passed=PARTS - 1, errors=3)
    errors = [line for line in result.outlines if line.startswith("load error: ")]
    pointer = "load error: not measured, see thresholds/tiny.yaml::tiny::load.metadata[good]"
    assert errors.count(pointer) == 3
    (full,) = [line for line in errors if line != pointer]
    assert message in full


def write(project: Project, metadata: dict[str, Any]) -> None:
    """Write the good SAE with these metadata."""
    sae = identity_sae(32)
    write_saelens(project.path / "good", sae, config=config_of(sae, metadata=metadata))


@pytest.mark.parametrize(
    ("metadata", "old", "new", "message"),
    [
        (
            {"prepend_bos": False},
            DATA,
            DATA,
            "it was trained with prepend_bos false, the spec has `data: {prepend_bos: true}`",
        ),
        (
            {"prepend_bos": True},
            DATA,
            "prepend_bos: false",
            "it was trained with prepend_bos true, the spec has `data: {prepend_bos: false}`",
        ),
        (
            {"exclude_special_tokens": True},
            DATA,
            f"{DATA}, special_tokens: include",
            "it was trained with exclude_special_tokens True, the spec has `data: "
            "{special_tokens: include}`",
        ),
        (
            {"exclude_special_tokens": [0]},
            DATA,
            f"{DATA}, special_tokens: include",
            "it was trained with exclude_special_tokens [0], ",
        ),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            "[tiny]",
            "[tiny]",
            "it was trained with center_writing_weights true, which is `model: {processing: "
            "hooked}`, the spec has raw",
        ),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
            "[tiny]",
            "[tiny], processing: hooked",
            "it was trained with center_writing_weights false, which is `model: {processing: "
            "raw}`, the spec has hooked",
        ),
    ],
)
def test_metadata_that_contradict_the_spec_break_the_contract(
    project: Project, metadata: dict[str, Any], old: str, new: str, message: str
) -> None:
    write(project, {**METADATA, **metadata})
    project.write_spec(project.spec.replace(old, new))
    expect_metadata_broken(project, message)


def test_metadata_that_agree_with_the_spec_pass(project: Project) -> None:
    arguments = {"center_writing_weights": False}
    metadata = {"prepend_bos": True, "exclude_special_tokens": True}
    write(project, {**METADATA, **metadata, "model_from_pretrained_kwargs": arguments})
    result = project.run("--sae", "good")
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3)


def write_single_file(project: Project, **metadata: Any) -> Path:
    """Write a mats_sae_training file, whose config is read only when the file is loaded."""
    sae = identity_sae(32)
    config = {"d_in": 32, "d_sae": 64, "apply_b_dec_to_input": False, **metadata}
    path = project.path / "good.pt"
    torch.save({"cfg": config, "state_dict": tensors_of(sae)}, path)
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"hook_point": "blocks.0.hook_resid_post", "model_name": "tiny"},
            f"its hook point is blocks.0.hook_resid_post, the spec's is {HOOK}",
        ),
        ({"hook_point": HOOK, "model_name": "pythia-70m"}, "its model is 'pythia-70m', the spec's"),
        ({"hook_point": HOOK, "model_name": 5}, "model_name is 5, expected text"),
    ],
)
def test_metadata_inside_of_a_file_are_checked_when_it_is_loaded(
    project: Project, metadata: dict[str, Any], message: str
) -> None:
    path = write_single_file(project, **metadata)
    result = project.run("--sae", str(path), "--sae-json", "out.json")
    assert result.ret == 2
    result.assert_outcomes(failed=1, passed=PARTS - 1, errors=3)
    result.stdout.fnmatch_lines([f"load error: {path}: {message}*"])
    assert project.verdicts("contract")["load.metadata[good]"] == "error"


def test_metadata_inside_of_a_file_that_agree_with_the_spec_pass(project: Project) -> None:
    path = write_single_file(project, hook_point=HOOK, model_name="tiny", prepend_bos=True)
    result = project.run("--sae", str(path))
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3)


def test_the_hook_option_does_not_overrule_metadata_inside_of_a_file(
    project: Project,
) -> None:
    write_single_file(project, hook_point="blocks.0.hook_resid_post", model_name="tiny")
    result = project.run("--sae", "good.pt", "--sae-hook", HOOK)
    assert result.ret == 2
    message = f"its hook point is blocks.0.hook_resid_post, the spec's is {HOOK}"
    result.stdout.fnmatch_lines([f"load error: */good.pt: {message}", "FAILED *load.metadata*"])


def write_transcoder(project: Project, metadata: dict[str, Any]) -> Path:
    """Write a transcoder of SAELens, from the input of an MLP to its output."""
    generator = torch.Generator().manual_seed(4)
    sae = identity_sae(32)
    tensors = {
        **tensors_of(sae),
        "W_dec": torch.randn(64, 32, generator=generator) * 0.05,
        "threshold": torch.rand(64, generator=generator),
    }
    config = config_of(
        sae, metadata=metadata, architecture="jumprelu_transcoder", d_out=32,
        apply_b_dec_to_input=False,
    )  # fmt: skip
    return write_saelens(project.path / "good", sae, config=config, tensors=tensors)


def transcoder_spec(project: Project) -> str:
    """Return the text of a spec of the transcoder."""
    return (
        project.spec.replace(f"hook: {HOOK}", f"hook: {READ}\nhook_out: {WRITTEN}")
        .replace("kl: {max: 0.1}", "kl: {max: 100}")
        .replace("explained_variance: {min: 0.9}", "explained_variance: {min: -100}")
    )


def test_a_transcoder_is_gated_with_its_controls(project: Project) -> None:
    write_likely_tokens(project)
    metadata = {**METADATA, "hook_name": READ, "hook_name_out": WRITTEN, "prepend_bos": True}
    folder = write_transcoder(project, metadata)
    spec = transcoder_spec(project).replace("text: ../text.txt", "tokens: ../tokens.npy")
    project.write_spec(spec)
    result = project.run("--sae", "good", "--sae-controls", "--sae-json", "out.json")
    assert result.ret == 0, result.stdout.str()
    contract = {f"{part}[good]": "pass" for part in CONTRACT}
    assert project.verdicts("contract") == contract  # and none of the controls
    metrics = ("kl", "l0", "explained_variance")
    assert project.verdicts() == {
        **{f"{metric}[good]": "pass" for metric in metrics},
        "kl[control:identity]": "pass",
        "reconstruction_score[control:identity]": "pass",
        "reconstruction_score[control:zero]": "pass",
        "reconstruction_score[mean][control:mean]": "pass",
        "explained_variance[control:mean]": "pass",
    }
    cases = project.cases()
    assert cases["good"].controls is not None
    rows = cases["good"].controls.rows
    # Random directions are missing: those of the input say nothing about the output.
    assert list(rows) == [
        "checkpoint", "random error", "permuted decoder", "mean", "zero", "identity",
    ]  # fmt: skip
    data = {"tokens": str(project.path / "tokens.npy"), "context": 16, "sequences": 8}
    measured = sae_guard.measure(
        model=project.model, sae=folder, corpus={**data, "prepend_bos": True}, hook=READ,
        hook_out=WRITTEN, random_error=True,
    )  # fmt: skip
    assert rows["random error"]["kl"] == pytest.approx(measured["kl_random_error"])
    outcomes = project.outcomes()
    assert [outcomes[f"{name}[good]"].value for name in metrics] == [
        measured[name] for name in metrics
    ]
    for member, hooks in {"good": (READ, WRITTEN), "control:identity": (WRITTEN, None)}.items():
        provenance = cases[member].provenance
        assert provenance is not None
        assert (provenance.hook, provenance.hook_out) == hooks


def test_a_transcoder_breaks_the_contract_of_a_spec_of_saes(project: Project) -> None:
    write_transcoder(project, WITHOUT_HOOK)
    message = "good is a transcoder, which replaces another activation than it reads: name that"
    expect_metadata_broken(project, message)


def test_an_sae_breaks_the_contract_of_a_spec_of_transcoders(project: Project) -> None:
    write(project, WITHOUT_HOOK)
    project.write_spec(transcoder_spec(project))
    message = f"good is no transcoder: it replaces what it reads, but `hook_out: {WRITTEN}` stands"
    expect_metadata_broken(project, message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"hook_name": READ}, f"it replaces what it reads, the spec's hook_out is {WRITTEN}"),
        (
            {"hook_name": READ, "hook_name_out": "blocks.2.hook_mlp_out"},
            f"it replaces blocks.2.hook_mlp_out, the spec's hook_out is {WRITTEN}",
        ),
    ],
)
def test_a_contradicting_replaced_hook_point_is_a_usage_error(
    project: Project, metadata: dict[str, str], message: str
) -> None:
    write_transcoder(project, {**WITHOUT_HOOK, **metadata})
    project.write_spec(transcoder_spec(project))
    result = project.run("--sae", "good")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*no spec gates */good:", f"*{message}*"])


@pytest.mark.parametrize("metadata", [{}, {"hook_name": READ}, {"hook_name_out": WRITTEN}])
def test_the_hook_option_names_both_hook_points_of_a_transcoder(
    project: Project, metadata: dict[str, str]
) -> None:
    write_transcoder(project, {**WITHOUT_HOOK, **metadata})
    project.write_spec(transcoder_spec(project))
    result = project.run("--sae", "good", "--sae-hook", f"{READ}:{WRITTEN}")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=PARTS + 3)
