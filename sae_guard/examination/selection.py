"""How many latents an SAE was trained to keep, found by where its reconstructions are calibrated.

With more latents than in training x̂ is too large, with fewer it is too small: the best factor falls
as more are kept, and is 1 at the number that the decoder was trained for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.core.diagnosis import Setting
from sae_guard.engine import HookSite
from sae_guard.examination.fitting import fitted
from sae_guard.examination.variants import Variant
from sae_guard.sae import SAE
from sae_guard.sae.activations import AbsTopK, JumpReLU, ReLU, TopK

_STEPS = 10
_EXACT = 0.01
_FINE = 1.08
# Of the tokens on which a threshold is found: all pre-activations of these exist at once.
_TOKENS = 2**8

Tokens = Float[Tensor, "tokens width"]


def selections(sae: SAE, place: HookSite, x: Tokens, y: Tokens, l0: float) -> Iterator[Variant]:
    """With as many latents as calibrate it.

    Args:
        sae: As it was loaded.
        place: Of the variants.
        x: What is read.
        y: What is to be reconstructed.
        l0: Of the SAE as it was loaded.
    """
    activation = sae.activation
    if isinstance(activation, TopK | AbsTopK):
        k = _calibrated_k(sae, type(activation), x, y, activation.k)
        if k is not None and k != activation.k:
            yield _with_k(sae, place, k, type(activation), "k", f"k: {k}")
    elif isinstance(activation, JumpReLU):
        factor = solved(
            lambda amount: _factor(_thresholds_times(sae, 1 / amount), x, y), highest=2.0**6
        )
        if factor is not None:
            yield Variant(
                "threshold-scale",
                f"thresholds × {1 / factor:.3g}",
                "a factor between the activations and the thresholds was lost: check where the "
                "checkpoint was converted",
                _thresholds_times(sae, 1 / factor),
                place,
            )
    elif isinstance(activation, ReLU):
        k = _calibrated_k(sae, TopK, x, y, max(1, round(l0)))
        if k is not None:
            yield _with_k(sae, place, k, TopK, "topk-as-relu", f"architecture: topk, k: {k}")
            yield _with_threshold(sae, place, x, k)


def _calibrated_k(sae: SAE, kind: type[TopK | AbsTopK], x: Tokens, y: Tokens, k: int) -> int | None:
    def rounded(amount: float) -> int:
        return min(max(1, round(amount * k)), sae.d_sae)

    amount = solved(
        lambda amount: _factor(replace(sae, activation=kind(rounded(amount))), x, y),
        highest=sae.d_sae / k,
        lowest=1 / k,
    )
    return None if amount is None else rounded(amount)


def _with_k(
    sae: SAE, place: HookSite, k: int, kind: type[TopK | AbsTopK], name: str, change: str
) -> Variant:
    options: tuple[Setting, ...] = (("k", str(k)),)
    if name != "k":
        options = (("architecture", "topk"), *options)
    keys = ", ".join(f"{key}: {value}" for key, value in options)
    remedy = f"`sae: {{{keys}}}` or about so, unless the checkpoint's config says otherwise"
    changed = replace(sae, activation=kind(k))
    return Variant(name, change, remedy, changed, place, options=options)


def _with_threshold(sae: SAE, place: HookSite, x: Tokens, l0: int) -> Variant:
    """One threshold for all, that leaves about so many latents per token."""
    some = x[:_TOKENS].to(sae.device)
    q = sae.pre_activations(sae.normalise(some).value)
    if sae.rescale_by_decoder_norm != "none":
        q = q * sae.decoder_norms()
    threshold = float(q.flatten().topk(l0 * len(some)).values[-1])
    return Variant(
        "threshold-dropped",
        f"architecture: jumprelu, threshold: {threshold:.4g}",
        "`sae: {architecture: jumprelu}`, with the thresholds of the training in the checkpoint",
        replace(sae, activation=JumpReLU(torch.full_like(sae.b_enc, max(threshold, 0.0)))),
        place,
        options=(("architecture", "jumprelu"),),
    )


def _thresholds_times(sae: SAE, factor: float) -> SAE:
    assert isinstance(sae.activation, JumpReLU)
    threshold = sae.activation.threshold * factor
    return replace(sae, activation=replace(sae.activation, threshold=threshold))


def _factor(sae: SAE, x: Tokens, y: Tokens) -> float:
    return fitted(sae, x, y).factor


def solved(
    factor: Callable[[float], float], *, highest: float, lowest: float = 2.0**-6
) -> float | None:
    """Times how many of the latents the best factor is nearest to 1; None if it never is near.

    It is 1 at 1 or less often; doubling or halving finds the way, then halves of the interval.
    """
    tried = {1.0: factor(1.0)}
    step = 2.0 if tried[1.0] > 1 else 0.5
    amount = 1.0
    for _ in range(_STEPS):
        before, amount = amount, min(max(amount * step, lowest), highest)
        if amount == before:
            break
        tried[amount] = factor(amount)
        if (tried[amount] > 1) != (tried[1.0] > 1):
            _halve(factor, tried, sorted((before, amount)))
            break
        if abs(tried[amount] - 1) <= _EXACT:
            break
    best = min(tried, key=lambda each: _distance(tried[each]))
    return best if _distance(tried[best]) < 3 * _EXACT else None


def _halve(
    factor: Callable[[float], float], tried: dict[float, float], between: list[float]
) -> None:
    low, high = between
    while high / low > _FINE and min(map(_distance, tried.values())) > _EXACT:
        middle = math.sqrt(low * high)
        tried[middle] = factor(middle)
        low, high = (middle, high) if tried[middle] > 1 else (low, middle)


def _distance(factor: float) -> float:
    return abs(factor - 1) if math.isfinite(factor) else math.inf
