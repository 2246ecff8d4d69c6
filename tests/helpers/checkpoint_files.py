"""Writing SAEs as the formats that are read: what the checkpoint tests share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.sae import SAE, DecoderNorm, SaeSource
from sae_guard.sae.activations import AbsTopK, Activation, Gated, JumpReLU, ReLU, TopK
from sae_guard.testing import saes

_SAELENS_ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated")


def saelens_saes() -> st.SearchStrategy[SAE]:
    """SAEs that a folder of SAELens 6 can hold."""
    return (
        saes()
        .filter(lambda sae: sae.activation.architecture in _SAELENS_ARCHITECTURES)
        .filter(lambda sae: not getattr(sae.activation, "inclusive", False))
        .map(
            lambda sae: replace(
                sae,
                scale_in=1.0,
                scale_out=1.0,
                latent_scale=None,
                rescale_by_decoder_norm=_rescaled(sae),
            )
        )
    )


def _rescaled(sae: SAE) -> DecoderNorm:
    can = sae.activation.architecture in ("topk", "abstopk")
    return "latents" if can and sae.rescale_by_decoder_norm != "none" else "none"


def tensors_of(sae: SAE) -> dict[str, Tensor]:
    """The canonical state dict of an SAE."""
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if isinstance(sae.activation, Gated):
        tensors |= {name: getattr(sae.activation, name) for name in ("b_gate", "b_mag", "r_mag")}
    else:
        tensors["b_enc"] = sae.b_enc
    if isinstance(sae.activation, JumpReLU):
        tensors["threshold"] = sae.activation.threshold
    return tensors


def config_of(sae: SAE, **changes: Any) -> dict[str, Any]:
    """The cfg.json that SAELens 6 writes for an SAE."""
    own: dict[str, Any] = {}
    if isinstance(sae.activation, TopK | AbsTopK):
        own = {
            "k": sae.activation.k,
            "rescale_acts_by_decoder_norm": sae.rescale_by_decoder_norm == "latents",
        }
    metadata = {
        "sae_lens_version": "6.54.12",
        "model_name": "gpt2",
        "hook_name": "blocks.1.hook_resid_post",
        "prepend_bos": True,
    }
    return {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cuda",
        "apply_b_dec_to_input": sae.b_pre is not None,
        "normalize_activations": sae.normalize,
        "reshape_activations": "none",
        "architecture": sae.activation.architecture,
        "metadata": metadata,
        **own,
        **changes,
    }


def write_saelens(
    folder: Path,
    sae: SAE,
    *,
    config: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """A SAELens 6 folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config_of(sae) if config is None else config))
    save_file(tensors_of(sae) if tensors is None else tensors, folder / "sae_weights.safetensors")
    return folder


def options_of(sae: SAE) -> SaeOptions:
    """Return the options that loading a plain file of the SAE needs."""
    activation = sae.activation
    return SaeOptions(
        architecture=activation.architecture,  # type: ignore[arg-type]
        k=activation.k if isinstance(activation, TopK | AbsTopK) else None,
        pre_bias=sae.b_pre is not None,
        normalize=sae.normalize,
    )


def as_linear(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state dict under the names of two ``nn.Linear``."""
    names = {
        "W_enc": "encoder.weight",
        "b_enc": "encoder.bias",
        "W_dec": "decoder.weight",
        "b_dec": "decoder.bias",
    }
    return {
        names.get(name, name): t.T.contiguous() if t.ndim == 2 else t for name, t in tensors.items()
    }


def example_sae(architecture: str = "standard") -> SAE:
    """A small SAE with fixed weights."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    activations: dict[str, Activation] = {
        "standard": ReLU(),
        "topk": TopK(3),
        "jumprelu": JumpReLU(normal(10).abs()),
        "gated": Gated(normal(10), normal(10), normal(10)),
    }
    b_enc = torch.zeros(10) if architecture == "gated" else normal(10)
    W_enc, W_dec, b_dec = normal(6, 10), normal(10, 6), normal(6)
    return SAE(
        W_enc, W_dec, b_enc, b_dec, activations[architecture], SaeSource("example", "example"),
        b_pre=b_dec,
    )  # fmt: skip
