"""How one metric moved between two versions, paired by sequence: better, worse or the same.

`standing` says it of quality and sparsity together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sae_guard.core.measurement import Measurement, TokenKL
from sae_guard.core.metrics import Metric, metric
from sae_guard.core.statistics import NOISE, Estimate
from sae_guard.core.statistics.paired import Sums, move, variance_ratio
from sae_guard.core.targets import Target, terms
from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True, eq=False)
class Version:
    """What was measured of a version."""

    name: str
    measurement: Measurement
    tokens: TokenKL | None = None
    """Where the measurement has no values of single tokens, and they are kept elsewhere."""

    @property
    def token_kl(self) -> TokenKL | None:
        """KL of single tokens, where it is known."""
        return self.measurement.token_kl if self.tokens is None else self.tokens


@dataclass(frozen=True)
class MetricMove:
    """How a metric moved. Shares of latents have no rows, and so neither interval nor p."""

    metric: str
    unit: str
    before: Estimate
    after: Estimate
    """Each with the interval it has alone."""
    difference: float
    """After − before."""
    low: float | None
    high: float | None
    """The interval of the difference, paired by sequence."""
    p_value: float | None
    """Two-sided, of no move at all."""
    outcome: Outcome | None
    """None where it cannot be told, or no way is better."""
    variance_ratio: float | None
    """How many times the variance were that of two measurements on texts apart."""

    @property
    def share(self) -> float | None:
        """The difference as a share of what it was; None of what is not above 0."""
        return self.difference / self.before.value if self.before.value > 0 else None


def metric_move(
    old: Version, new: Version, name: str, *, confidence: float, alpha: float, margin: float
) -> MetricMove:
    """How a metric moved from one version to another, of the same sequences; args as `compare`.

    Raises:
        UndefinedMetricError: It has no value in one of them.
    """
    chosen = metric(name)
    was, now = _estimates(old, new, name, confidence)
    if chosen.firing_above is not None:
        difference = now.value - was.value
        return MetricMove(name, chosen.unit, was, now, difference, None, None, None, None, None)
    rows = (
        Sums(*terms(old.measurement, Target(name)), was.value),
        Sums(*terms(new.measurement, Target(name)), now.value),
    )
    found = move(*rows, confidence=confidence)
    return MetricMove(
        name,
        chosen.unit,
        was,
        now,
        found.value,
        found.low,
        found.high,
        found.p_value,
        outcome(chosen, was.value, now.value, found.p_value, alpha=alpha, margin=margin),
        variance_ratio(*rows),
    )


def _estimates(
    old: Version, new: Version, name: str, confidence: float
) -> tuple[Estimate, Estimate]:
    found, why = list[Estimate](), list[str]()
    for version in (old, new):
        try:
            found.append(version.measurement.estimate(name, confidence=confidence))
        except UndefinedMetricError as error:
            why.append(str(error))
            named = f"{version.name}: {error}"
    if not why:
        return found[0], found[1]
    raise UndefinedMetricError(why[0] if len(why) == 2 else named)


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
