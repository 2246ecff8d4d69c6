"""Compute how well reconstructions fit (`Fit`), and other statistics of one pass of an SAE."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.core.diagnosis import Fit
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import sparse_forward


def fit_sae(sae: SAE, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Fit:
    """Run the SAE on ``x`` and return how well it reconstructs ``y`` (``x`` itself, in an SAE)."""
    forward = sparse_forward(sae, x.to(sae.device))
    return compute_fit(y, forward.reconstruction, float(forward.l0.cpu().double().mean()))


def compute_fit(
    y: Float[Tensor, "tokens d_out"], y_hat: Float[Tensor, "tokens d_out"], l0: float
) -> Fit:
    """Compute the numbers of `Fit`, whose attributes give their formulas, in float64.

    Args:
        y: Activations to be reconstructed.
        y_hat: Their reconstructions.
        l0: Active latents per token, passed on.
    """
    y, y_hat = y.cpu().double(), y_hat.cpu().double()
    error = y - y_hat
    mean_error = error.mean(dim=0)
    centred, centred_hat = y - y.mean(dim=0), y_hat - y_hat.mean(dim=0)
    squared_error = float(error.square().sum())
    # Σ‖e‖² = n‖ē‖² + Σ‖e − ē‖²: the first part is that of the constant error.
    squared_constant = len(y) * float(mean_error.square().sum())
    return Fit(
        explained_variance=1 - _ratio(squared_error, float(centred.square().sum())),
        # The least-squares slope of y on ŷ.
        factor=_ratio(
            float((centred * centred_hat).sum()), float(centred_hat.square().sum())
        ),
        # A perfect reconstruction has no error, and no constant part of it.
        constant=_ratio(squared_constant, squared_error) if squared_error else 0.0,
        l0=l0,
    )  # fmt: skip


def share_along_ones(vectors: Float[Tensor, "tokens width"]) -> float:
    """Return the share of Σ‖v‖² that lies along the vector of ones; 0 if all vectors are 0.

    A model with centred weights writes nothing along it.
    """
    vectors = vectors.cpu().double()
    total = float(vectors.square().sum())
    along_ones = vectors.sum(dim=-1).square() / vectors.shape[-1]
    return _ratio(float(along_ones.sum()), total) if total else 0.0


def share_near_thresholds(sae: SAE, x: Float[Tensor, "tokens d_in"]) -> float:
    """Return how many latents are within bfloat16's rounding of their threshold, per active one.

    Where thresholds were rounded to bfloat16, such latents may be on or off by mistake.

    Args:
        sae: An SAE with a threshold per latent (JumpReLU), or without thresholds.
        x: Inputs of the SAE.

    Returns:
        The ratio of the two numbers; 0 if the thresholds are not all bfloat16 numbers, or if the
        encoder's weights are too, so that nothing was rounded after the training.
    """
    threshold = getattr(sae.activation, "threshold", None)
    if threshold is None or not _is_bfloat16(threshold) or _is_bfloat16(sae.W_enc):
        return 0.0
    n_near = n_active = 0
    # In parts, because pre-activations are [tokens, d_sae].
    for tokens in torch.split(x.to(sae.device), 64):
        q = sae.pre_activations(sae.normalise(tokens).value)  # [tokens, d_sae]
        # Half the distance between neighbours of 8 significant bits, relative to the number.
        n_near += int(((q - threshold).abs() <= threshold.abs() * 2**-8).sum())
        n_active += int((sae.latents(q) != 0).sum())
    return _ratio(n_near, n_active)


def _is_bfloat16(value: Tensor) -> bool:
    """Return whether every element is a number that bfloat16 holds exactly."""
    return bool(torch.equal(value.to(torch.bfloat16).to(value.dtype), value))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")


def most_firing(firings: Int[Tensor, " d_sae"], count: int) -> Int[Tensor, " latents"]:
    """Return the indices of the ``count`` latents that fire most, without those that never fire."""
    indices = firings.topk(min(count, len(firings))).indices
    return indices[firings[indices] > 0]
