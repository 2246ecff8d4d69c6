"""How reconstructions fit: `Fit` and what else one pass of an SAE over tokens shows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.core.diagnosis import Fit
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import code


def fitted(sae: SAE, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Fit:
    """What the SAE makes of ``x`` beside ``y``, what is to be reconstructed."""
    coded = code(sae, x.to(sae.device))
    return fit_of(y, coded.reconstruction, float(coded.l0.cpu().double().mean()))


def fit_of(
    y: Float[Tensor, "tokens d_out"], y_hat: Float[Tensor, "tokens d_out"], l0: float
) -> Fit:
    """The numbers of `Fit`, in float64."""
    y, y_hat = y.cpu().double(), y_hat.cpu().double()
    error = y - y_hat
    mean_error = error.mean(dim=0)
    centred, centred_hat = y - y.mean(dim=0), y_hat - y_hat.mean(dim=0)
    squared_error = float(error.square().sum())
    constant = len(y) * float(mean_error.square().sum())
    return Fit(
        explained_variance=1 - _ratio(squared_error, float(centred.square().sum())),
        factor=_ratio(
            float((centred * centred_hat).sum()), float(centred_hat.square().sum())
        ),
        # Of no error there is no part.
        constant=_ratio(constant, squared_error) if squared_error else 0.0,
        l0=l0,
    )  # fmt: skip


def along_ones(values: Float[Tensor, "tokens width"]) -> float:
    """Share of the squares of vectors that lies along the vector of ones."""
    values = values.cpu().double()
    total = float(values.square().sum())
    along = values.sum(dim=-1).square() / values.shape[-1]
    return _ratio(float(along.sum()), total) if total else 0.0


def near_thresholds(sae: SAE, x: Float[Tensor, "tokens d_in"]) -> float:
    """Latents within bfloat16's rounding of their threshold, by those that are active.

    Zero where no threshold looks as if it had been rounded to bfloat16, or every weight does.
    """
    threshold = getattr(sae.activation, "threshold", None)
    if threshold is None or not _is_bfloat16(threshold) or _is_bfloat16(sae.W_enc):
        return 0.0
    near = active = 0
    for part in torch.split(x.to(sae.device), 64):
        q = sae.pre_activations(sae.normalise(part).value)
        # Half the distance between neighbours of 8 significant bits.
        near += int(((q - threshold).abs() <= threshold.abs() * 2**-8).sum())
        active += int((sae.latents(q) != 0).sum())
    return _ratio(near, active)


def _is_bfloat16(value: Tensor) -> bool:
    return bool(torch.equal(value.to(torch.bfloat16).to(value.dtype), value))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def most_firing(firings: Int[Tensor, " d_sae"], count: int) -> Int[Tensor, " latents"]:
    """The latents that fire most, those that never do left out."""
    chosen = firings.topk(min(count, len(firings))).indices
    return chosen[firings[chosen] > 0]
