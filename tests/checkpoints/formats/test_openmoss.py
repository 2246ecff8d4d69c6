"""OpenMOSS files of three ages, against what its own code computes, written out slowly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.declare import Declaration, declare
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE
from sae_guard.sae.activations import JumpReLU

D, M, K = 6, 10, 2
X = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(7)) * 3
NORM = "dataset_average_activation_norm"
FIVE = {"in": 5.0, "out": 5.0}
HOOK, MLP_IN, MLP_OUT = "blocks.3.hook_resid_post", "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


def weights() -> dict[str, Tensor]:
    """The decoder rows have norms far from 1."""
    return {
        "W_E": draw(D, M), "b_E": draw(M) + 0.5, "W_D": draw(M, D, seed=1), "b_D": draw(D),
    }  # fmt: skip


def as_linear(w: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"W_E": "encoder.weight", "b_E": "encoder.bias", "W_D": "decoder.weight",
             "b_D": "decoder.bias"}  # fmt: skip
    return {names.get(n, n): t.T.contiguous() if t.ndim == 2 else t for n, t in w.items()}


def keep_top(q: Tensor) -> Tensor:
    """The mask of the K largest of each token, one token at a time."""
    mask = torch.zeros_like(q)
    for token in range(len(q)):
        for latent in q[token].argsort(descending=True)[:K]:
            mask[token, latent] = 1
    return mask


def tokens(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def check(mine: SAE, latents: Tensor, reconstruction: Tensor, *, unit: float = 1.0) -> None:
    """Equal to tables of one row per token; the units of latents may differ by a number."""
    out = mine(X)
    assert out.latents.shape == (3, 4, M)
    assert bool((latents != 0).any())
    assert bool((latents == 0).any())
    assert torch.equal(tokens(out.latents) != 0, latents != 0)
    torch.testing.assert_close(tokens(out.latents) / unit, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens(out.reconstruction), reconstruction, rtol=1e-5, atol=1e-5)


def refusal(path: Path, options: SaeOptions | None = None) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(path, options)
    return caught.value


# lm_saes 1: hyperparams.json, weights that its loader folds


def write_v1(
    folder: Path,
    *,
    tensors: dict[str, Tensor] | None = None,
    norms: dict[str, float] | None = FIVE,
    pt: bool = False,
    **changes: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    w = weights() if tensors is None else tensors
    config: dict[str, Any] = {
        "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "hook_point_in": HOOK,
        "hook_point_out": HOOK, "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": M / D, "d_model": D,
        "d_sae": M, "bias_init_method": "all_zero", "act_fn": "jumprelu",
        "jump_relu_threshold": 0.75, "norm_activation": "dataset-wise", NORM: norms,
        "decoder_exactly_fixed_norm": False, "sparsity_include_decoder_norm": True,
        "use_glu_encoder": False, "init_decoder_norm": 0.5, "init_encoder_norm": None,
        "init_encoder_with_decoder_transpose": True, "lp": 1, "l1_coefficient": 8e-05,
        "l1_coefficient_warmup_steps": 78125, "top_k": K, "k_warmup_steps": 78125,
        "use_batch_norm_mse": True, "use_ghost_grads": False, "tp_size": 1, "ddp_size": 1,
        **changes,
    }  # fmt: skip
    config = {name: value for name, value in config.items() if value != "absent"}
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.json").write_text(json.dumps(config))
    if pt:
        torch.save({"sae": as_linear(w), "version": "1.0"}, folder / "checkpoints" / "final.pt")
    else:
        save_file(as_linear(w), folder / "checkpoints" / "final.safetensors")
    return w, config


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
    assert (
        "hyperparams.json is ambiguous; decide in the spec:\n  sae.architecture (--sae-arch): topk"
        in str(error)
    )
    assert "\n  sae.architecture (--sae-arch): jumprelu (jump_relu_threshold is 0.75" in str(error)
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
        ({"jump_relu_threshold": -1}, "thresholds lie between", "threshold"),
        ({"jump_relu_threshold": 0}, "thresholds lie between 0 and 0", "threshold"),
        ({"jump_relu_threshold": [1]}, "jump_relu_threshold is [1], expected a number", "keys"),
        ({"jump_relu_threshold": float("inf")}, "is inf, expected a number", "keys"),
        ({"act_fn": "absent"}, "act_fn is missing, expected text", "keys"),
        ({"act_fn": ["relu"]}, "act_fn is ['relu'], expected text", "keys"),
        ({"hook_point_in": ["a", "b"]}, "hook_point_in is ['a', 'b'], expected text", "keys"),
        ({"hook_point_in": "absent"}, "hook_point_in is missing", "keys"),
        ({"sparsity_include_decoder_norm": 1}, "is 1, expected true or false", "keys"),
        ({"apply_decoder_bias_to_pre_encoder": "absent"}, "is missing, expected true", "keys"),
        ({"temperature": 2}, "temperature = 2: not understood", "keys"),
        ({"sae_type": "cnnsae"}, "sae_type is 'cnnsae', read so far: sae", "readable"),
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
        (SaeOptions(scale="folded"), "folded no scale into weights of this form"),
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
    whole = {name: tensor.to(torch.float32) for name, tensor in half.items()}
    check(sae, *run_v1(whole, config, "jumprelu"), unit=sae.scale_out)
    assert sae.source.declared["stored_dtype"] == "bfloat16"


# 2025-02 to 2025-05: nn.Linear, masks; since 2025-06: W_E and so on


def write_2025(
    folder: Path,
    *,
    linear: bool = False,
    tensors: dict[str, Tensor] | None = None,
    threshold: str = "activation_function.log_jumprelu_threshold",
    norms: dict[str, float] | None = None,
    norm_dtype: torch.dtype = torch.float32,
    pt: bool = False,
    **changes: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    w = weights() if tensors is None else dict(tensors)
    config: dict[str, Any] = {
        "sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D,
        "expansion_factor": M / D, "use_decoder_bias": True, "use_glu_encoder": False,
        "act_fn": "jumprelu", "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True, "top_k": K, "use_triton_kernel": False,
        "sparsity_threshold_for_triton_spmm_kernel": 0.996, "jumprelu_threshold_window": 2.0,
        **({"jump_relu_threshold": 0.0, "apply_decoder_bias_to_pre_encoder": False,
            "force_unit_decoder_norm": False} if linear else {}),
        **changes,
    }  # fmt: skip
    config = {name: value for name, value in config.items() if value != "absent"}
    if norms is None:
        norms = dict.fromkeys((str(config["hook_point_in"]), str(config["hook_point_out"])), 5.0)
    held = as_linear(w) if linear else w
    held |= {f"{NORM}.{hook}": torch.tensor(v, dtype=norm_dtype) for hook, v in norms.items()}
    if config["act_fn"] == "jumprelu":
        w["threshold"] = (draw(M) * 0.3).exp()
        held[threshold] = w["threshold"].log()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if pt:
        torch.save({"sae": held, "version": "2"}, folder / "sae_weights.pt")
    else:
        save_file({n: t.contiguous() for n, t in held.items()}, folder / "sae_weights.safetensors")
    return w, config


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
    assert (
        "config.json is ambiguous; decide in the spec:\n  sae.scale (--sae-scale): stored"
        in str(error)
    )
    assert "multiplied by 0.489898 and the reconstruction divided by 0.489898" in str(error)
    assert "\n  sae.scale (--sae-scale): folded" in str(error)
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
    assert "folded no scale" in str(refusal(tmp_path, SaeOptions(scale="folded")))


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
        ({"tensors": {**weights(), "W_E_glu": draw(D, M)}}, "W_E_glu: encoders with a gated"),
        ({"norm_activation": "batch-wise"}, "norm_activation is 'batch-wise'"),
        ({"norm_activation": "token-wise", "hook_point_out": MLP_OUT}, "in a transcoder"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.5}, "jump_relu_threshold is 0.5 with"),
        ({"act_fn": "topk", "top_k": 1.5}, "top_k is 1.5, expected a whole number"),
        ({"act_fn": "topk", "top_k": M + 1}, f"k is {M + 1}, allowed: 1 to {M}"),
        ({"apply_decoder_bias_to_pre_encoder": True}, "is true, which OpenMOSS has not computed"),
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
