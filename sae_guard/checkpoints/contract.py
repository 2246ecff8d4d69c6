"""What a loaded SAE is held to before a model runs with it, whichever format it is of.

Most of the contract is kept or broken while loading; what is here holds for all formats at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import Contract, LoadError, Option
from sae_guard.sae import SAE, SaeOutput
from sae_guard.sae.activations import JumpReLU

_TOKENS = 24
_TOLERANCE = 1e-5
"""Relative to the largest value: kernels may add in another order, a TopK over the batch may not
choose other latents."""


def check(contract: Contract, sae: SAE, options: SaeOptions) -> None:
    """Raise `LoadError` if the SAE breaks the contract; parts not named here are kept by loading.

    Args:
        contract: Which part.
        sae: As loaded.
        options: What the spec and the command line say of it.
    """
    if contract in _CHECKS:
        message = _CHECKS[contract](sae, options)
        if message is not None:
            raise LoadError(f"{sae.source.path}: {message}", contract)


def _activation(sae: SAE, options: SaeOptions) -> str | None:
    facts: dict[Option, object] = {
        "architecture": sae.activation.architecture,
        "k": getattr(sae.activation, "k", None),
        "pre_bias": sae.b_pre is not None,
        "normalize": sae.normalize,
    }
    for name, value in facts.items():
        required = getattr(options, name)
        if required is not None and required != value:
            raise LoadError(
                f"{sae.source.path}: {name} is {value!r}, the spec's `sae` block or the command "
                f"line says {required!r}",
                "activation",
                options=(name,),
            )
    return None


def _finite(sae: SAE, options: SaeOptions) -> str | None:
    tensors = {**vars(sae), **vars(sae.activation)}
    for name, value in tensors.items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            return f"{name} holds values that are not finite"
    return None


def _threshold(sae: SAE, options: SaeOptions) -> str | None:
    if isinstance(sae.activation, JumpReLU) and not sae.activation.trained:
        return "thresholds are below 0 or all 0: they were never trained"
    return None


def _scale(sae: SAE, options: SaeOptions) -> str | None:
    for name in ("scale_in", "scale_out"):
        value = getattr(sae, name)
        if not 0 < value < float("inf"):
            return f"{name} is {value}, expected a number above 0"
    return None


def _deterministic(sae: SAE, options: SaeOptions) -> str | None:
    x = _batch(sae)
    first, second = sae(x), sae(x)
    if not all(bool(value.isfinite().all()) for value in first):
        return "finite activations give latents or a reconstruction that are not finite"
    if _differ(first, second):
        return "the same activations give other latents the second time"
    return None


def _batch_mates(sae: SAE, options: SaeOptions) -> str | None:
    check("deterministic", sae, options)  # or any difference would be blamed on the batch
    x, others = _batch(sae), _batch(sae).flip(0) * 30
    mine = slice(0, _TOKENS)
    beside = sae(torch.cat([x, x])), sae(torch.cat([x, others]))
    first, second = (SaeOutput(out.reconstruction[mine], out.latents[mine]) for out in beside)
    if _differ(first, second):
        return "the latents of a token depend on the tokens beside it in the batch"
    return None


def _batch(sae: SAE) -> Tensor:
    """Activations of lengths from a tenth to a hundred, so that some latents of any SAE fire."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TOKENS, sae.d_in, generator=generator)
    lengths = torch.logspace(-1, 2, _TOKENS).unsqueeze(-1)
    return (x * lengths).to(sae.device)


def _differ(first: SaeOutput, second: SaeOutput) -> bool:
    """Whether outputs differ; written so that a NaN does."""
    return not all(
        bool((a - b).abs().max() <= _TOLERANCE * a.abs().max().clamp(min=1))
        for a, b in zip(first, second, strict=True)
    )


_CHECKS: Mapping[Contract, Callable[[SAE, SaeOptions], str | None]] = {
    "finite": _finite,
    "activation": _activation,
    "threshold": _threshold,
    "scale": _scale,
    "deterministic": _deterministic,
    "batch_mates": _batch_mates,
}
