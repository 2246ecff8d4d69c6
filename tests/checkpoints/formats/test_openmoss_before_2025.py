"""OpenMOSS files of before 2025, against what lm_saes 1 computes, written out slowly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.sae.activations import JumpReLU
from tests.helpers.openmoss_files import (
    MLP_IN,
    MLP_OUT,
    NORM,
    D,
    K,
    M,
    X,
    check,
    draw,
    keep_top,
    refusal,
    tokens,
    weights,
    write_v1,
)


def run_v1(w: dict[str, Tensor], config: dict[str, Any], act_fn: str) -> tuple[Tensor, Tensor]:
    """Fold the scale of the dataset, then the decoder norms, then run, as lm_saes 1 does."""
    x = tokens(X)
    W_E, b_E, W_D = w["W_E"].clone(), w["b_E"].clone(), w["W_D"].clone()
    b_D = w["b_D"].clone() if config["use_decoder_bias"] else torch.zeros(D)
    if config["norm_activation"] == "dataset-wise":
        f_in, f_out = (D**0.5 / config[NORM][side] for side in ("in", "out"))
        b_E, b_D, W_D = b_E / f_in, b_D / f_out, W_D * f_in / f_out
    if config["sparsity_include_decoder_norm"]:
        norms = W_D.norm(dim=1)
        W_D, W_E, b_E = W_D / norms[:, None], W_E * norms, b_E * norms
    length = torch.ones(len(x), 1)
    if config["norm_activation"] == "token-wise":
        length = D**0.5 / x.norm(dim=-1, keepdim=True)
    x = x * length
    if config["use_decoder_bias"] and config["apply_decoder_bias_to_pre_encoder"]:
        x = x - b_D
    pre = x @ W_E + b_E
    if act_fn == "jumprelu":
        latents = pre.where(pre > config["jump_relu_threshold"], torch.zeros(()))
    else:
        latents = pre.clamp(min=0)
        latents = latents * keep_top(latents) if act_fn == "topk" else latents
    return latents, (latents @ W_D + b_D) / length


@pytest.mark.parametrize("act_fn", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("in_decoder_units", [True, False])
@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize(
    "norm",
    [
        {"norm_activation": "dataset-wise"},
        {NORM: {"in": 5, "out": 0.7}, "hook_point_in": MLP_IN, "hook_point_out": MLP_OUT},
        {"norm_activation": "token-wise"},
        {"norm_activation": "inference"},
    ],
)
def test_v1_equals_fold_then_run(
    tmp_path: Path, act_fn: str, in_decoder_units: bool, pre_bias: bool, norm: dict[str, Any]
) -> None:
    w, config = write_v1(
        tmp_path, act_fn=act_fn, sparsity_include_decoder_norm=in_decoder_units,
        apply_decoder_bias_to_pre_encoder=pre_bias,
        jump_relu_threshold=0.4 if act_fn == "jumprelu" else 0.0, **norm,
    )  # fmt: skip
    sae = load(tmp_path)
    # Ours are in units of the scaled input, those of lm_saes 1 in units of the raw one.
    unit = sae.scale_out if in_decoder_units else sae.scale_in
    check(sae, *run_v1(w, config, act_fn), unit=unit)
    assert sae.transcoder == ("hook_point_in" in norm)


def test_trap_v1_decoder_bias_may_be_missing(tmp_path: Path) -> None:
    w = weights()
    del w["b_D"]
    _, config = write_v1(
        tmp_path, tensors=w, pt=True, use_decoder_bias=False, apply_decoder_bias_to_pre_encoder=True
    )
    sae = load(tmp_path)
    assert sae.b_pre is None
    check(sae, *run_v1(w, config, "jumprelu"), unit=sae.scale_out)


def test_trap_v1_threshold_is_before_the_fold(tmp_path: Path) -> None:
    _, config = write_v1(
        tmp_path, norms={"in": 5, "out": 0.7}, hook_point_in=MLP_IN, hook_point_out=MLP_OUT
    )
    sae = load(tmp_path)
    theta = config["jump_relu_threshold"] * D**0.5 / 0.7
    assert isinstance(sae.activation, JumpReLU)
    torch.testing.assert_close(sae.activation.threshold, torch.full((M,), theta))
    assert sae.identity["hook_name_out"] == MLP_OUT


def test_trap_v1_pre_bias_is_not_the_out_bias(tmp_path: Path) -> None:
    """The fold divides the bias by fo, and it is then taken off an input that is not scaled."""
    w, _ = write_v1(
        tmp_path, apply_decoder_bias_to_pre_encoder=True, hook_point_out=MLP_OUT,
        norms={"in": 5, "out": 0.7},
    )  # fmt: skip
    b_pre = load(tmp_path).b_pre
    assert b_pre is not None
    torch.testing.assert_close(b_pre, w["b_D"] * 0.7 / 5)


def test_trap_topk_with_a_threshold_is_ambiguous(tmp_path: Path) -> None:
    w, config = write_v1(tmp_path, act_fn="topk")
    error = refusal(tmp_path)
    assert "hyperparams.json is ambiguous; decide in the spec:\n  sae.architecture: topk" in str(
        error
    )
    assert "\n  sae.architecture: jumprelu (jump_relu_threshold is 0.75" in str(error)
    assert error.contract == "activation"
    assert "ambiguous" in str(refusal(tmp_path, SaeOptions(architecture="standard")))
    for architecture in ("topk", "jumprelu"):
        sae = load(tmp_path, SaeOptions(architecture=architecture))
        check(sae, *run_v1(w, config, architecture), unit=sae.scale_out)


def test_v1_scale_that_is_not_stored(tmp_path: Path) -> None:
    w, config = write_v1(tmp_path, norms=None)
    error = refusal(tmp_path)
    assert f"{NORM}.in is missing" in str(error)
    assert error.contract == "scale"
    sae = load(tmp_path, SaeOptions(scale=D**0.5 / 5))
    check(sae, *run_v1(w, {**config, NORM: {"in": 5, "out": 5}}, "jumprelu"), unit=sae.scale_out)


@pytest.mark.parametrize(
    ("changes", "message", "contract"),
    [
        ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise'", "batch_mates"),
        ({"norm_activation": "sample-wise"}, "norm_activation is 'sample-wise', allowed", "scale"),
        ({"norm_activation": "token-wise", "hook_point_out": MLP_OUT}, "in a transcoder", "scale"),
        ({"act_fn": "batchtopk"}, "act_fn is 'batchtopk'", "batch_mates"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu', allowed: relu, topk, jumprelu", "activation"),
        ({"use_glu_encoder": True}, "gated linear unit", "readable"),
        ({"jump_relu_threshold": -1}, "thresholds are ", "threshold"),
        ({"jump_relu_threshold": 0}, "thresholds are 0 to 0", "threshold"),
        ({"jump_relu_threshold": [1]}, "jump_relu_threshold is [1], expected a number", "keys"),
        ({"jump_relu_threshold": float("inf")}, "is inf, expected a number", "keys"),
        ({"act_fn": "absent"}, "act_fn is missing, expected text", "keys"),
        ({"act_fn": ["relu"]}, "act_fn is ['relu'], expected text", "keys"),
        ({"hook_point_in": ["a", "b"]}, "hook_point_in is ['a', 'b'], expected text", "keys"),
        ({"hook_point_in": "absent"}, "hook_point_in is missing", "keys"),
        ({"sparsity_include_decoder_norm": 1}, "is 1, expected true or false", "keys"),
        ({"apply_decoder_bias_to_pre_encoder": "absent"}, "is missing, expected true", "keys"),
        ({"temperature": 2}, "temperature = 2: not understood", "keys"),
        ({"sae_type": "cnnsae"}, "sae_type is 'cnnsae', allowed: sae", "readable"),
        ({"d_sae": M + 1}, f"d_sae is {M + 1}, but final.safetensors has {M}", "shapes"),
        ({"d_model": D + 1}, f"d_model is {D + 1}, but final.safetensors has {D}", "shapes"),
        ({"use_decoder_bias": False}, "use_decoder_bias is false, but", "keys"),
        ({"d_model": -D}, f"d_model is -{D}, expected a positive number", "keys"),
        ({NORM: {"in": 5}}, f"{NORM}.out is missing", "scale"),
        ({NORM: {"in": 0, "out": 5}}, f"{NORM}.in is 0, allowed", "scale"),
        ({NORM: {"in": "5", "out": 5}}, f"{NORM}.in is '5', expected a number", "scale"),
        ({NORM: 5}, f"{NORM} is 5, expected an object", "scale"),
    ],
)
def test_v1_refusals(tmp_path: Path, changes: dict[str, Any], message: str, contract: str) -> None:
    write_v1(tmp_path, **changes)
    error = refusal(tmp_path)
    assert message in str(error)
    assert error.contract == contract


def test_v1_glu_tensors_are_refused_by_name(tmp_path: Path) -> None:
    write_v1(tmp_path, tensors={**weights(), "encoder_glu.weight": draw(D, M)}, top_k=K)
    assert "encoder_glu.weight" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SaeOptions(architecture="topk"), "says architecture 'jumprelu'"),
        (SaeOptions(pre_bias=True), "says pre_bias False"),
        (SaeOptions(scale="folded"), "say scale 'folded', allowed: stored"),
        (SaeOptions(scale=0.7), "has scale 0.489898, the `sae` options say 0.7"),
        (SaeOptions(scale=1.0), "has scale 0.489898, the `sae` options say 1"),
    ],
)
def test_options_may_not_contradict_v1(tmp_path: Path, options: SaeOptions, message: str) -> None:
    write_v1(tmp_path)
    assert message in str(refusal(tmp_path, options))


def test_trap_bfloat16_weights_are_computed_in_float32(tmp_path: Path) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in weights().items()}
    _, config = write_v1(
        tmp_path, tensors=half, apply_decoder_bias_to_pre_encoder=True, hook_point_out=MLP_OUT,
        norms={"in": 5, "out": 0.7},
    )  # fmt: skip
    sae = load(tmp_path)
    widened = {name: tensor.to(torch.float32) for name, tensor in half.items()}
    check(sae, *run_v1(widened, config, "jumprelu"), unit=sae.scale_out)
    assert sae.source.declared["stored_dtype"] == "bfloat16"
