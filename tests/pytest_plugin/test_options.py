"""What the command line says of SAEs: used where the file is silent, refused where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.sae.controls import identity_sae
from tests.helpers.checkpoint_files import config_of, tensors_of, write_saelens
from tests.pytest_plugin.projects import CONTRACT, HOOK, METADATA, PARTS, Project

USAGE, NO_VERDICT = 4, 2
SAID = ("--sae-arch", "standard", "--sae-pre-bias", "false", "--sae-norm", "none")
TOPK = ("--sae-arch", "topk", "--sae-k", "3", "--sae-pre-bias", "true", "--sae-norm", "layer_norm")


@pytest.fixture
def plain(project: Project) -> Project:
    """With ``plain.pt``: the tensors of the good SAE, and not a word on them."""
    torch.save(tensors_of(identity_sae(32)), project.path / "plain.pt")
    return project


def error_of(result: pytest.RunResult) -> str:
    """The text of a usage error."""
    assert result.ret == USAGE
    text = result.stderr.str()
    assert "ERROR: " in text
    assert "Traceback" not in text
    return text


def checkpoint_of(project: Project) -> dict[str, Any]:
    """What was measured, by the provenance."""
    provenance = project.cases()["plain"].provenance
    assert provenance is not None
    return dict(provenance.checkpoint)


def test_a_state_dict_of_which_nothing_is_said(plain: Project) -> None:
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


def test_a_state_dict_of_which_all_is_said(plain: Project, mode: tuple[str, ...]) -> None:
    args = ("--sae", "plain.pt", "--sae-json", "out.json", "--sae-hook", HOOK)
    result = plain.run(*args, *SAID, *mode)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=PARTS + 3)
    assert plain.verdicts()["kl[plain]"] == "pass"
    facts = {"architecture": "standard", "k": None, "pre_bias": False, "normalize": "none"}
    assert facts.items() <= checkpoint_of(plain).items()


def test_topk_with_a_pre_bias_normalised_and_scaled(plain: Project) -> None:
    args = ("--sae", "plain.pt", "--sae-json", "out.json", "--sae-scale", "0.5")
    result = plain.run(*args, *TOPK)
    assert result.ret == 1  # three latents of 64 reconstruct too little
    facts = {
        "architecture": "topk", "k": 3, "pre_bias": True, "normalize": "layer_norm",
        "scale_in": 0.5, "scale_out": 0.5,
    }  # fmt: skip
    assert facts.items() <= checkpoint_of(plain).items()
    assert plain.outcomes()["l0[plain]"].value == 3


def test_the_spec_and_the_command_line_add_up(plain: Project) -> None:
    block = "sae: {architecture: standard, pre_bias: false}\nhook:"
    plain.write_spec(plain.spec.replace("hook:", block))
    result = plain.run("--sae", "plain.pt", "--sae-norm", "none", "--sae-pre-bias", "false")
    assert result.ret == 0


def test_a_default_checkpoint_takes_the_options_too(plain: Project) -> None:
    plain.write_spec(plain.spec.replace("hook:", "checkpoint: ../plain.pt\nhook:"))
    assert plain.run().ret == NO_VERDICT
    plain.run(*SAID).assert_outcomes(passed=PARTS + 3)


@pytest.mark.parametrize(
    ("block", "option", "asked", "message"),
    [
        ("architecture: topk", "--sae-arch", "jumprelu", "architecture is 'topk' by {} and 'jump"),
        ("k: 3", "--sae-k", "4", "k is 3 by {} and 4 by the command line"),
        ("pre_bias: true", "--sae-pre-bias", "false", "pre_bias is True by {} and False by the"),
        ("normalize: none", "--sae-norm", "layer_norm", "normalize is 'none' by {} and 'layer_"),
        ("scale: 2.0", "--sae-scale", "folded", "scale is 2.0 by {} and 'folded' by the command"),
    ],
)
def test_the_command_line_against_the_spec(
    project: Project, block: str, option: str, asked: str, message: str
) -> None:
    project.write_spec(project.spec.replace("hook:", f"sae: {{{block}}}\nhook:"))
    text = error_of(project.run("--sae", "good", option, asked))
    assert message.format("the `sae` block of tiny.yaml::tiny") in text
    assert f"{project.path}/good: " in text


@pytest.mark.parametrize(
    ("option", "asked", "part", "message"),
    [
        ("--sae-arch", "topk", "activation", "says architecture 'standard', the `sae` options say"),
        ("--sae-norm", "layer_norm", "activation", "says normalize 'none', the `sae` options say"),
        ("--sae-scale", "0.5", "scale", "has scale 1, the `sae` options say 0.5"),
    ],
)
def test_the_command_line_against_the_checkpoint(
    project: Project, option: str, asked: str, part: str, message: str
) -> None:
    result = project.run("--sae", "good", option, asked, "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    assert project.verdicts("contract")[f"load.{part}[good]"] == "error"
    result.stdout.fnmatch_lines([f"load error: {project.path}/good/cfg.json {message}*"])


@pytest.mark.parametrize(
    ("option", "asked", "message"),
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
def test_wrong_values(project: Project, option: str, asked: str, message: str) -> None:
    text = error_of(project.run("--sae", "good", f"{option}={asked}"))
    assert message in text
    assert option in text


OTHER = "blocks.0.hook_resid_post"


def test_the_hook_point_of_a_silent_checkpoint(plain: Project) -> None:
    first = plain.spec.replace("name: tiny", "name: first").replace(HOOK, OTHER)
    plain.write_spec(f"{first}---\n{plain.spec}")
    text = error_of(plain.run("--sae", "plain.pt", *SAID))
    assert "does not declare its model and hook point, and several specs could gate it" in text
    assert text.rstrip().endswith("(--sae-spec, --sae-hook)")
    for hook, name in ((HOOK, "tiny"), (OTHER, "first")):
        nodes = plain.run("--sae", "plain.pt", "--sae-hook", hook, "--collect-only", "-q").outlines
        assert nodes[0] == f"thresholds/tiny.yaml::{name}::load.readable[plain]"
        assert not any("::tiny" in node for node in nodes if name == "first")


@pytest.mark.parametrize("asked", [OTHER, f"{HOOK}:blocks.1.hook_mlp_out", "nothing", ":", ""])
def test_a_hook_point_that_no_spec_gates(plain: Project, asked: str) -> None:
    text = error_of(plain.run("--sae", "plain.pt", f"--sae-hook={asked}", *SAID))
    assert f"no spec gates {plain.path}/plain.pt:" in text
    assert f"tiny.yaml::tiny ({plain.model}, {HOOK}): it" in text


@pytest.mark.parametrize("asked", [OTHER, f"{OTHER}:{HOOK}"])
def test_the_hook_point_against_what_the_checkpoint_declares(project: Project, asked: str) -> None:
    text = error_of(project.run("--sae", "good", "--sae-hook", asked))
    assert f"{project.path}/good declares hook point {HOOK}," in text
    assert f" {asked} (--sae-hook)" in text


def test_the_replaced_hook_point_against_what_the_checkpoint_declares(project: Project) -> None:
    sae = identity_sae(32)
    metadata = {**METADATA, "hook_name_out": "blocks.1.hook_mlp_out"}
    config = config_of(sae, metadata=metadata, architecture="transcoder", d_out=32)
    write_saelens(project.path / "good", sae, config=config)
    for asked in (HOOK, f"{HOOK}:{OTHER}"):
        text = error_of(project.run("--sae", "good", "--sae-hook", asked))
        assert "declares hook point blocks.1.hook_mlp_out," in text
        assert f" {asked} (--sae-hook)" in text


def test_a_hook_point_that_the_checkpoint_says_too(project: Project) -> None:
    assert project.run("--sae", "good", "--sae-hook", HOOK).ret == 0


def test_a_name_for_a_file_that_holds_one_sae(project: Project) -> None:
    result = project.run("--sae", "good#layer_3", "--sae-json", "out.json")
    assert result.ret == NO_VERDICT
    assert project.verdicts("contract")["load.readable[good#layer_3]"] == "error"
    message = "good#layer_3: a SAELens 6 checkpoint holds one SAE, without a name; remove #layer_3"
    result.stdout.fnmatch_lines([f"load error: {project.path}/{message}"])


def write_two(path: Path) -> None:
    """AI Safety Foundation: the first is the good SAE, the second reconstructs nothing."""
    sae = identity_sae(32)
    W_dec = sae.W_dec.T.contiguous()
    tensors = {
        "tied_bias": torch.zeros(2, 32),
        "encoder.weight": torch.stack([sae.W_enc.T] * 2),
        "encoder.bias": torch.zeros(2, 64),
        "decoder.weight": torch.stack([W_dec, torch.zeros_like(W_dec)]),
    }
    torch.save(tensors, path)


def test_several_saes_of_one_file(project: Project) -> None:
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


def test_the_hub_offline(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(project.path / "hub"))
    reference = "hf://someone/saes/layer_3@main"
    result = project.pytester.runpytest_subprocess("--sae", reference)
    assert result.ret == NO_VERDICT
    text = result.stdout.str() + result.stderr.str()
    assert f"{reference} is not in the cache {project.path / 'hub'} and cannot be" in text
    assert "Traceback" not in text
    assert not (project.path / "hub").exists()
