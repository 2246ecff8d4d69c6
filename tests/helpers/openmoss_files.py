"""Write files of OpenMOSS as it did before 2025 and since, and compare what they compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

D, M, K = 6, 10, 2
X = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(7)) * 3
NORM = "dataset_average_activation_norm"
FIVE = {"in": 5.0, "out": 5.0}
HOOK, MLP_IN, MLP_OUT = "blocks.3.hook_resid_post", "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Draw the same tensor for a shape each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


def weights() -> dict[str, Tensor]:
    """Draw weights whose decoder rows have norms far from 1."""
    return {
        "W_E": draw(D, M), "b_E": draw(M) + 0.5, "W_D": draw(M, D, seed=1), "b_D": draw(D),
    }  # fmt: skip


def as_linear(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn and name the weights as linear layers hold them."""
    names = {"W_E": "encoder.weight", "b_E": "encoder.bias", "W_D": "decoder.weight",
             "b_D": "decoder.bias"}  # fmt: skip
    return {names.get(n, n): t.T.contiguous() if t.ndim == 2 else t for n, t in w.items()}


def keep_top(q: Tensor) -> Tensor:
    """Mask all but the K largest of each token, one token at a time."""
    mask = torch.zeros_like(q)
    for token in range(len(q)):
        for latent in q[token].argsort(descending=True)[:K]:
            mask[token, latent] = 1
    return mask


def tokens(x: Tensor) -> Tensor:
    """Put all tokens below each other."""
    return x.reshape(-1, x.shape[-1])


def check(mine: SAE, latents: Tensor, reconstruction: Tensor, *, unit: float = 1.0) -> None:
    """Compare with tables of one row per token; the units of latents may differ by a number."""
    out = mine(X)
    assert out.latents.shape == (3, 4, M)
    assert bool((latents != 0).any())
    assert bool((latents == 0).any())
    assert torch.equal(tokens(out.latents) != 0, latents != 0)
    torch.testing.assert_close(tokens(out.latents) / unit, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens(out.reconstruction), reconstruction, rtol=1e-5, atol=1e-5)


def refusal(path: Path, options: SaeOptions | None = None) -> LoadError:
    """Load what is refused; the error is returned."""
    with pytest.raises(LoadError) as caught:
        load(path, options)
    return caught.value


def write_v1(
    folder: Path,
    *,
    tensors: dict[str, Tensor] | None = None,
    norms: dict[str, float] | None = FIVE,
    pt: bool = False,
    **changes: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Write what lm_saes 1 wrote: hyperparams.json, weights that its loader folds."""
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
    """Write what it writes since 2025-02: `linear` and masks until 2025-05, then W_E and so on."""
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
    state_dict = as_linear(w) if linear else w
    state_dict |= {f"{NORM}.{hook}": torch.tensor(v, dtype=norm_dtype) for hook, v in norms.items()}
    if config["act_fn"] == "jumprelu":
        w["threshold"] = (draw(M) * 0.3).exp()
        state_dict[threshold] = w["threshold"].log()
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if pt:
        torch.save({"sae": state_dict, "version": "2"}, folder / "sae_weights.pt")
    else:
        save_file(
            {n: t.contiguous() for n, t in state_dict.items()}, folder / "sae_weights.safetensors"
        )
    return w, config
