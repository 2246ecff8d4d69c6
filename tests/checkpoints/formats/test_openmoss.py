"""OpenMOSS files of two ages, against what its own code computes, written out slowly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.openmoss_files import (
    HOOK,
    MLP_IN,
    MLP_OUT,
    NORM,
    D,
    M,
    X,
    check,
    draw,
    keep_top,
    refusal,
    tokens,
    weights,
    write_2025,
    write_v1,
)


def run_2025(
    w: dict[str, Tensor], config: dict[str, Any], scale_in: float = 1.0, scale_out: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Normalise, then select by pre-activation times decoder norm, then divide by it again."""
    x = tokens(X)
    length = torch.full((len(x), 1), scale_in)
    label = torch.full((len(x), 1), scale_out)
    if config["norm_activation"] == "token-wise":
        length = label = D**0.5 / x.norm(dim=-1, keepdim=True)
    b_D = w["b_D"] if config["use_decoder_bias"] else torch.zeros(D)
    x = x * length
    if config.get("apply_decoder_bias_to_pre_encoder"):
        x = x - b_D
    pre = x @ w["W_E"] + w["b_E"]
    norms = w["W_D"].norm(dim=1) if config["sparsity_include_decoder_norm"] else torch.ones(M)
    score = pre * norms
    if config["act_fn"] == "jumprelu":
        mask = (score > w["threshold"]).float()
    else:
        mask = (score > 0).float()
        if config["act_fn"] == "topk":
            mask = mask * keep_top(score.clamp(min=0))
    latents = score * mask / norms
    return latents, (latents @ w["W_D"] + b_D) / label


EARLY = [
    {"linear": True, "threshold": "log_jumprelu_threshold"},
    {"linear": True},
    {"linear": True, "apply_decoder_bias_to_pre_encoder": True},
]


@pytest.mark.parametrize("form", [*EARLY, {"linear": False}])
@pytest.mark.parametrize("act_fn", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("in_decoder_units", [True, False])
@pytest.mark.parametrize("norm", ["dataset-wise", "token-wise", "inference"])
def test_2025_equals_its_own_procedure(
    tmp_path: Path, form: dict[str, Any], act_fn: str, in_decoder_units: bool, norm: str
) -> None:
    w, config = write_2025(
        tmp_path, act_fn=act_fn, sparsity_include_decoder_norm=in_decoder_units,
        norm_activation=norm, **form,
    )  # fmt: skip
    scaled = norm == "dataset-wise"
    sae = load(tmp_path, SaeOptions(scale="stored") if scaled and not form["linear"] else None)
    scale = D**0.5 / 5 if scaled else 1.0
    check(sae, *run_2025(w, config, scale, scale))
    assert sae.rescale_by_decoder_norm == ("selection" if in_decoder_units else "none")


@pytest.mark.parametrize("linear", [True, False])
def test_2025_transcoder_has_scales_of_its_own(tmp_path: Path, linear: bool) -> None:
    w, config = write_2025(
        tmp_path, linear=linear, hook_point_in=MLP_IN, hook_point_out=MLP_OUT,
        norms={MLP_IN: 5.0, MLP_OUT: 0.7},
    )  # fmt: skip
    sae = load(tmp_path, SaeOptions(scale="stored"))
    check(sae, *run_2025(w, config, D**0.5 / 5, D**0.5 / 0.7))
    assert sae.transcoder
    assert declare(tmp_path) == Declaration(None, MLP_IN, MLP_OUT)
    assert "a transcoder has a scale of its input and one of its output" in str(
        refusal(tmp_path, SaeOptions(scale=0.5))
    )


def test_trap_decoder_bias_may_be_missing(tmp_path: Path) -> None:
    w = weights()
    del w["b_D"]
    w, config = write_2025(tmp_path, tensors=w, pt=True, use_decoder_bias=False)
    check(load(tmp_path, SaeOptions(scale="folded")), *run_2025(w, config))


def test_matryoshka_computes_as_an_sae(tmp_path: Path) -> None:
    w, config = write_2025(
        tmp_path, sae_type="matryoshka_sae", matryoshka_widths=[5, M], norm_activation="inference"
    )
    check(load(tmp_path), *run_2025(w, config))


def test_trap_scale_may_be_folded_already(tmp_path: Path) -> None:
    w, config = write_2025(tmp_path, act_fn="topk")
    error = refusal(tmp_path)
    assert "config.json is ambiguous; decide in the spec:\n  sae.scale: stored" in str(error)
    assert "multiplied by 0.489898 and the reconstruction divided by 0.489898" in str(error)
    assert "\n  sae.scale: folded" in str(error)
    assert error.contract == "scale"
    stored = load(tmp_path, SaeOptions(scale="stored"))
    check(stored, *run_2025(w, config, D**0.5 / 5, D**0.5 / 5))
    for folded in (SaeOptions(scale="folded"), SaeOptions(scale=1.0)):
        check(load(tmp_path, folded), *run_2025(w, config))
    number = load(tmp_path, SaeOptions(scale=0.49))
    check(number, *run_2025(w, config, 0.49, 0.49))
    assert "has scale 0.489898, the `sae` options say 0.6" in str(
        refusal(tmp_path, SaeOptions(scale=0.6))
    )


def test_trap_decoder_norms_select_and_do_not_scale(tmp_path: Path) -> None:
    with_norms, without = (
        write_2025(
            tmp_path / str(flag), act_fn="topk", norm_activation="inference",
            sparsity_include_decoder_norm=flag,
        )
        and load(tmp_path / str(flag)).encode(X)
        for flag in (True, False)
    )  # fmt: skip
    both = (with_norms != 0) & (without != 0)
    assert bool(both.any())
    assert bool(((with_norms != 0) != (without != 0)).any())
    torch.testing.assert_close(with_norms[both], without[both])


def test_trap_folding_leaves_thresholds_alone(tmp_path: Path) -> None:
    write_2025(tmp_path)
    folded = load(tmp_path, SaeOptions(scale="folded")).source.assumptions
    assert "does not rescale" in folded[0]
    assert load(tmp_path, SaeOptions(scale="stored")).source.assumptions == ()


def test_trap_scale_is_never_folded_before_2025_06(tmp_path: Path) -> None:
    write_2025(tmp_path, linear=True)
    assert any("folded no scale" in text for text in load(tmp_path).source.assumptions)
    assert "folds no scale" in str(refusal(tmp_path, SaeOptions(scale="folded")))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 0.0, -1.4e-21, 1e-21, -5.0])
def test_trap_garbage_norms_are_refused(tmp_path: Path, garbage: float) -> None:
    w, config = write_2025(tmp_path, norms={HOOK: garbage})
    error = refusal(tmp_path, SaeOptions(scale="stored"))
    assert f"{NORM}.{HOOK} is " in str(error)
    assert "allowed: 1e-06 to 1e+20" in str(error)
    assert error.contract == "scale"
    assert refusal(tmp_path).contract == "scale"
    check(load(tmp_path, SaeOptions(scale="folded")), *run_2025(w, config))
    check(load(tmp_path, SaeOptions(scale=0.5)), *run_2025(w, config, 0.5, 0.5))


@pytest.mark.parametrize("norm", ["token-wise", "inference"])
def test_trap_garbage_norms_that_nothing_reads_do_no_harm(tmp_path: Path, norm: str) -> None:
    w, config = write_2025(tmp_path, norms={HOOK: float("nan")}, norm_activation=norm)
    check(load(tmp_path), *run_2025(w, config))
    assert "so no stored scale is applied" in str(refusal(tmp_path, SaeOptions(scale="stored")))


def test_trap_a_norm_in_bfloat16_is_rounded(tmp_path: Path) -> None:
    write_2025(tmp_path, norms={HOOK: 5.01}, norm_dtype=torch.bfloat16)
    sae = load(tmp_path, SaeOptions(scale="stored"))
    assert sae.scale_in == pytest.approx(D**0.5 / 5.0)
    assert sae.source.assumptions == ("the scale is that of a norm rounded to bfloat16",)


def test_trap_batchtopk_stores_no_threshold(tmp_path: Path) -> None:
    write_2025(tmp_path, act_fn="batchtopk")
    error = refusal(tmp_path)
    assert "act_fn is 'batchtopk'" in str(error)
    assert error.contract == "batch_mates"


def test_trap_early_topk_lets_all_through_where_too_few_are_positive(tmp_path: Path) -> None:
    write_2025(tmp_path, linear=True, act_fn="topk")
    assert "at least top_k positive" in load(tmp_path).source.assumptions[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_glu_encoder": True}, "use_glu_encoder with no tensors"),
        (
            {"tensors": {**weights(), "W_E_glu": draw(D, M)}},
            "use_glu_encoder with W_E_glu, allowed: false",
        ),
        ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise'"),
        ({"norm_activation": "token-wise", "hook_point_out": MLP_OUT}, "in a transcoder"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.5}, "jump_relu_threshold is 0.5 with"),
        ({"act_fn": "topk", "top_k": 1.5}, "top_k is 1.5, expected a whole number"),
        ({"act_fn": "topk", "top_k": M + 1}, f"k is {M + 1}, allowed: 1 to {M}"),
        ({"apply_decoder_bias_to_pre_encoder": True}, "pre_encoder is true, allowed: false"),
        ({"linear": True, "apply_decoder_bias_to_pre_encoder": "absent"}, "is missing"),
        ({"threshold": "thresholds"}, "with no threshold, expected one of"),
        ({"norm_dtype": torch.complex64}, f"{NORM}.{HOOK} is missing"),
        ({"norms": {}}, f"{NORM}.{HOOK} is missing"),
        ({"d_model": 7.5}, "d_model is 7.5"),
        ({"expansion_factor": "2"}, "expansion_factor is '2', expected a number"),
        ({"use_attention": True}, "use_attention = True: not understood"),
        ({"tensors": {**weights(), "b_X": draw(D)}}, "not understood: b_X"),
        ({"tensors": {**weights(), "W_D": torch.full((M, D), torch.nan)}}, "not finite"),
        ({"tensors": {n: t for n, t in weights().items() if n != "W_D"}}, "no matrix W_dec"),
    ],
)
def test_2025_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_2025(tmp_path, **changes)
    assert message in str(refusal(tmp_path, SaeOptions(scale="stored")))


def test_without_its_config_it_is_refused(tmp_path: Path) -> None:
    write_2025(tmp_path)
    (tmp_path / "config.json").unlink()
    path = tmp_path / "sae_weights.safetensors"
    assert "an OpenMOSS checkpoint without its config" in str(refusal(path))


def test_shards_are_refused_by_name(tmp_path: Path) -> None:
    shards = tmp_path / "sae_weights.dcp"
    shards.mkdir()
    (shards / "__0_0.distcp").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, shards):
        assert "sae_weights.dcp is in shards of torch.distributed.checkpoint" in str(refusal(path))


def test_declared_model_and_hook(tmp_path: Path) -> None:
    write_v1(tmp_path / "a")
    assert declare(tmp_path / "a") == Declaration(None, HOOK)
    model = "meta-llama/Llama-3.1-8B"
    (tmp_path / "a" / "lm_config.json").write_text(json.dumps({"model_name": model}))
    assert declare(tmp_path / "a") == Declaration(model, HOOK)
    identity = load(tmp_path / "a").identity
    assert (identity["model_name"], identity["hook_name"]) == (model, HOOK)
    assert "hook_name_out" not in identity
    (tmp_path / "a" / "lm_config.json").write_text(json.dumps({"model_name": 8}))
    with pytest.raises(LoadError, match="model_name is 8"):
        declare(tmp_path / "a")
