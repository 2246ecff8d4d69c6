"""Load contract: checks of a loaded SAE, of any format, before a model runs with it.

Loading itself checks most of the contract; the checks here are the same for all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sae_guard.checkpoints.assemble import check_agreement
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import Contract, LoadError
from sae_guard.sae import SAE, SaeOutput
from sae_guard.sae.activations import JumpReLU

_TOKENS = 24
_TOLERANCE = 1e-5
"""Tolerance relative to the largest value: it allows kernels another order of addition, but not a
TopK over the batch another choice of latents."""


def check(contract: Contract, sae: SAE, options: SaeOptions) -> None:
    """Raise `LoadError` if the SAE breaks a part of the load contract.

    Args:
        contract: The part; loading has already checked the parts without a check here.
        sae: The loaded SAE.
        options: The options it was loaded with.
    """
    if contract in _CHECKS:
        message = _CHECKS[contract](sae, options)
        if message is not None:
            raise LoadError(f"{sae.source.path}: {message}", contract)


def _activation(sae: SAE, options: SaeOptions) -> str | None:
    check_agreement(sae, options, sae.source.path)
    return None


def _finite(sae: SAE, options: SaeOptions) -> str | None:
    tensors = {**vars(sae), **vars(sae.activation)}
    for name, value in tensors.items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            return f"{name} holds values that are not finite"
    return None


def _threshold(sae: SAE, options: SaeOptions) -> str | None:
    if isinstance(sae.activation, JumpReLU) and not sae.activation.trained:
        return "thresholds are below 0 or all 0: they were never trained; allowed: some above 0"
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
    # An SAE that is not deterministic would differ here too, with the batch as the wrong culprit.
    check("deterministic", sae, options)
    # Larger activations take latents away from the others where a TopK is over the batch.
    x, larger = _batch(sae), _batch(sae).flip(0) * 30
    first_half = slice(0, _TOKENS)
    outputs = sae(torch.cat([x, x])), sae(torch.cat([x, larger]))
    first, second = (
        SaeOutput(out.reconstruction[first_half], out.latents[first_half]) for out in outputs
    )
    if _differ(first, second):
        return "the latents of a token depend on the tokens beside it in the batch"
    return None


def _batch(sae: SAE) -> Tensor:
    """Return random activations [24, d_in] of scales 0.1 to 100: some latents of any SAE fire."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TOKENS, sae.d_in, generator=generator)
    lengths = torch.logspace(-1, 2, _TOKENS).unsqueeze(-1)
    return (x * lengths).to(sae.device)


def _differ(first: SaeOutput, second: SaeOutput) -> bool:
    """Return whether two outputs differ; a NaN counts as a difference."""
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
