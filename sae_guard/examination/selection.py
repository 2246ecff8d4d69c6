"""Estimate how many latents an SAE was trained to keep active.

With more active latents than in training x̂ is too large, with fewer it is too small: the factor
that would correct it (`Fit.factor`) falls as more are kept, and is 1 at the number that the decoder
was trained for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.core.diagnosis import Setting
from sae_guard.examination.fitting import fit_sae
from sae_guard.examination.variants import Variant
from sae_guard.sae import SAE
from sae_guard.sae.activations import AbsTopK, JumpReLU, ReLU, TopK

_DOUBLINGS = 10
"""Most steps of the search before the number of latents is bracketed."""
_TOLERANCE = 0.01
"""Distance of the factor from 1 at which the search stops."""
_RELATIVE_WIDTH = 1.08
"""Ratio of the ends of the bracket at which the search stops."""
_TOKENS = 2**8
"""Tokens on which one threshold for all is computed: their pre-activations exist all at once."""

Tokens = Float[Tensor, "tokens width"]


def selections(sae: SAE, x: Tokens, y: Tokens, l0: float) -> Iterator[Variant]:
    """Yield variants with another number of active latents, at which x̂ is calibrated.

    TopK gets another k, and JumpReLU scaled thresholds. ReLU may be either of them loaded wrongly:
    it gets a k, and one threshold for all latents.

    Args:
        sae: The SAE as loaded.
        x: Activations that the SAE reads.
        y: Activations to be reconstructed.
        l0: Active latents per token of the SAE as loaded.
    """
    activation = sae.activation
    if isinstance(activation, TopK | AbsTopK):
        k = _calibrated_k(sae, type(activation), x, y, activation.k)
        if k is not None and k != activation.k:
            yield _with_k(sae, k, type(activation), "k", f"k: {k}")
    elif isinstance(activation, JumpReLU):
        multiple = find_calibrated_multiple(
            lambda multiple: _factor(_scale_thresholds(sae, 1 / multiple), x, y), highest=2.0**6
        )
        if multiple is not None:
            yield Variant(
                "threshold-scale",
                f"thresholds × {1 / multiple:.3g}",
                "a factor between the activations and the thresholds was lost: check where the "
                "checkpoint was converted",
                _scale_thresholds(sae, 1 / multiple),
            )
    elif isinstance(activation, ReLU):
        k = _calibrated_k(sae, TopK, x, y, max(1, round(l0)))
        if k is not None:
            yield _with_k(sae, k, TopK, "topk-as-relu", f"architecture: topk, k: {k}")
            yield _with_threshold(sae, x, k)


def _calibrated_k(sae: SAE, kind: type[TopK | AbsTopK], x: Tokens, y: Tokens, k: int) -> int | None:
    def times(multiple: float) -> int:
        return min(max(1, round(multiple * k)), sae.d_sae)

    multiple = find_calibrated_multiple(
        lambda multiple: _factor(replace(sae, activation=kind(times(multiple))), x, y),
        highest=sae.d_sae / k,
        lowest=1 / k,
    )
    return None if multiple is None else times(multiple)


def _with_k(sae: SAE, k: int, kind: type[TopK | AbsTopK], name: str, change: str) -> Variant:
    options: tuple[Setting, ...] = (("k", str(k)),)
    if name != "k":
        options = (("architecture", "topk"), *options)
    keys = ", ".join(f"{key}: {value}" for key, value in options)
    remedy = f"`sae: {{{keys}}}` or a k near it, unless the checkpoint's config says otherwise"
    return Variant(name, change, remedy, replace(sae, activation=kind(k)), options)


def _with_threshold(sae: SAE, x: Tokens, l0: int) -> Variant:
    """Return the variant with one threshold for all latents, which leaves ``l0`` per token."""
    sample = x[:_TOKENS].to(sae.device)
    q = sae.pre_activations(sae.normalise(sample).value)
    if sae.rescale_by_decoder_norm != "none":  # thresholds compare with rescaled pre-activations
        q = q * sae.decoder_norms()
    # The l0 · tokens largest pre-activations, whichever token they are of, stay active.
    threshold = float(q.flatten().topk(l0 * len(sample)).values[-1])
    return Variant(
        "threshold-dropped",
        f"architecture: jumprelu, threshold: {threshold:.4g}",
        "`sae: {architecture: jumprelu}`, with the thresholds of the training in the checkpoint",
        # A threshold below 0 would do nothing: a negative q is 0 in any case.
        replace(sae, activation=JumpReLU(torch.full_like(sae.b_enc, max(threshold, 0.0)))),
        (("architecture", "jumprelu"),),
    )


def _scale_thresholds(sae: SAE, factor: float) -> SAE:
    assert isinstance(sae.activation, JumpReLU)
    threshold = sae.activation.threshold * factor
    return replace(sae, activation=replace(sae.activation, threshold=threshold))


def _factor(sae: SAE, x: Tokens, y: Tokens) -> float:
    return fit_sae(sae, x, y).factor


def find_calibrated_multiple(
    factor: Callable[[float], float], *, highest: float, lowest: float = 2.0**-6
) -> float | None:
    """Return the multiple of the active latents at which the factor is nearest to 1.

    The number is doubled, or halved, until the factor is on the other side of 1; then the interval
    is bisected in its logarithm.

    Args:
        factor: `Fit.factor` as a function of the multiple; it falls as the multiple grows.
        highest: Largest multiple to try.
        lowest: Smallest multiple to try.

    Returns:
        None if the factor comes nowhere near 1.
    """
    factors = {1.0: factor(1.0)}
    step = 2.0 if factors[1.0] > 1 else 0.5
    multiple = 1.0
    for _ in range(_DOUBLINGS):
        previous, multiple = multiple, min(max(multiple * step, lowest), highest)
        if multiple == previous:
            break
        factors[multiple] = factor(multiple)
        if (factors[multiple] > 1) != (factors[1.0] > 1):
            _bisect(factor, factors, sorted((previous, multiple)))
            break
        if abs(factors[multiple] - 1) <= _TOLERANCE:
            break
    best = min(factors, key=lambda multiple: _distance(factors[multiple]))
    # Three times the tolerance: k is an integer, and may not come nearer.
    return best if _distance(factors[best]) < 3 * _TOLERANCE else None


def _bisect(
    factor: Callable[[float], float], factors: dict[float, float], bracket: list[float]
) -> None:
    """Bisect between two multiples of the number of active latents until the factor is near 1.

    Each multiple that is tried, and its factor, is added to ``factors``.
    """
    low, high = bracket
    while high / low > _RELATIVE_WIDTH and min(map(_distance, factors.values())) > _TOLERANCE:
        middle = math.sqrt(low * high)
        factors[middle] = factor(middle)
        low, high = (middle, high) if factors[middle] > 1 else (low, middle)


def _distance(factor: float) -> float:
    """Return the distance of a factor from 1; infinite if it is not finite."""
    return abs(factor - 1) if math.isfinite(factor) else math.inf
