"""Better, worse or the same: of a metric, and of quality and sparsity together."""

from __future__ import annotations

import math
from typing import Literal

from sae_guard.core.metrics.table import Metric
from sae_guard.core.statistics import NOISE

Outcome = Literal["better", "worse", "same"]
Standing = Literal["dominates", "trade-off", "dominated", "same"]
"""Of the later of two versions against the earlier."""

SPARSITY = "l0"


def outcome(
    chosen: Metric,
    before: float,
    after: float,
    p_value: float | None,
    *,
    alpha: float,
    margin: float = 0.0,
) -> Outcome | None:
    """What became of a metric; None where it cannot be told, or where no way is better.

    Args:
        chosen: The metric. Of the number of active latents, fewer are better.
        before: Its value.
        after: What it moved to.
        p_value: Two-sided, of no move at all; None where that is not known.
        alpha: A move counts where ``p_value`` is below it.
        margin: One of this share of what it was, or less, is the same whatever its ``p_value``. Of
            scores, whose best is 1, it is a share of their distance from there. What is within
            numeric noise is the same without a margin, too.
    """
    lower = chosen.direction == "lower" or chosen.name == SPARSITY
    if chosen.direction == "window" and not lower:
        return None
    if not math.isfinite(after - before):
        return None
    noise = NOISE * max(abs(before), abs(after))
    if abs(after - before) <= max(noise, margin * abs(before - chosen.tail_from)):
        return "same"
    if p_value is None or math.isnan(p_value):
        return None
    if not p_value < alpha:
        return "same"
    return "better" if (after < before) == lower else "worse"


def standing(quality: Outcome, sparsity: Outcome) -> Standing:
    """What both say together. A better KL alone says little: more latents buy it."""
    both = {quality, sparsity}
    if both == {"better", "worse"}:
        return "trade-off"
    if "better" in both:
        return "dominates"
    return "dominated" if "worse" in both else "same"
