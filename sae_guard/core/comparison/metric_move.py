"""Compare one metric of two versions, paired by sequence: better, worse or the same.

`standing` combines the outcomes of quality and sparsity.
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
    """The measurement of one version, with its name."""

    name: str
    measurement: Measurement
    tokens: TokenKL | None = None
    """KL of single tokens from a record, whose measurement has no token table."""

    @property
    def token_kl(self) -> TokenKL | None:
        """KL of single tokens; None where unknown."""
        return self.measurement.token_kl if self.tokens is None else self.tokens


@dataclass(frozen=True)
class MetricMove:
    """The difference of one metric between two versions.

    Shares of latents are no sums over sequences and have neither an interval nor a p-value.
    """

    metric: str
    unit: str
    before: Estimate
    """Earlier value, with its own, unpaired interval."""
    after: Estimate
    """Later value, with its own, unpaired interval."""
    difference: float
    """``after`` − ``before``."""
    low: float | None
    high: float | None
    """Upper end of the paired interval of the difference."""
    p_value: float | None
    """Two-sided p-value of the hypothesis that the metric did not change."""
    outcome: Outcome | None
    """None without a p-value, and for metrics without a better direction."""
    variance_ratio: float | None
    """Variance on different texts over the paired variance (`statistics.paired.variance_ratio`)."""

    @property
    def share(self) -> float | None:
        """Difference divided by the earlier value; None where that is not above 0."""
        return self.difference / self.before.value if self.before.value > 0 else None


def metric_move(
    old: Version, new: Version, name: str, *, confidence: float, alpha: float, margin: float
) -> MetricMove:
    """Return the difference of one metric between two versions measured on the same sequences.

    Args:
        old: The earlier version.
        new: The later version.
        name: Name of the metric.
        confidence: Confidence level of the interval.
        alpha: Significance level (see `outcome`).
        margin: Relative difference up to which the metric counts as the same (see `outcome`).

    Raises:
        UndefinedMetricError: The metric is undefined in one of the versions.
    """
    definition = metric(name)
    before, after = _estimates(old, new, name, confidence)
    if definition.firing_above is not None:
        difference = after.value - before.value
        unit = definition.unit
        return MetricMove(name, unit, before, after, difference, None, None, None, None, None)
    rows = (
        Sums(*terms(old.measurement, Target(name)), before.value),
        Sums(*terms(new.measurement, Target(name)), after.value),
    )
    paired = move(*rows, confidence=confidence)
    result = outcome(
        definition, before.value, after.value, paired.p_value, alpha=alpha, margin=margin
    )
    return MetricMove(
        name, definition.unit, before, after, paired.value, paired.low, paired.high, paired.p_value,
        result, variance_ratio(*rows),
    )  # fmt: skip


def _estimates(
    old: Version, new: Version, name: str, confidence: float
) -> tuple[Estimate, Estimate]:
    """Return the value in both versions.

    Raises:
        UndefinedMetricError: It is undefined; the message names the version, unless both are.
    """
    estimates, errors = list[Estimate](), list[str]()
    for version in (old, new):
        try:
            estimates.append(version.measurement.estimate(name, confidence=confidence))
        except UndefinedMetricError as error:
            errors.append(str(error))
            message = f"{version.name}: {error}"
    if not errors:
        return estimates[0], estimates[1]
    raise UndefinedMetricError(errors[0] if len(errors) == 2 else message)


Outcome = Literal["better", "worse", "same"]
Standing = Literal["dominates", "trade-off", "dominated", "same"]
"""The later of two versions against the earlier one, in quality and sparsity together."""

SPARSITY = "l0"


def outcome(
    definition: Metric,
    before: float,
    after: float,
    p_value: float | None,
    *,
    alpha: float,
    margin: float = 0.0,
) -> Outcome | None:
    """Return whether a metric got better or worse, or is the same.

    Args:
        definition: The metric. A lower L0 is better.
        before: Earlier value.
        after: Later value.
        p_value: Two-sided p-value of the hypothesis that the metric did not change; None if
            unknown.
        alpha: Significance level: a difference counts where ``p_value`` is below it.
        margin: Relative difference up to which the metric counts as the same, whatever its
            ``p_value``. For scores, whose best value is 1, it is relative to the distance from 1.
            A difference within numeric noise is the same without a margin, too.

    Returns:
        The outcome; None without a p-value, and for metrics without a better direction.
    """
    lower = definition.direction == "lower" or definition.name == SPARSITY
    if definition.direction == "window" and not lower:
        return None
    if not math.isfinite(after - before):
        return None
    noise = NOISE * max(abs(before), abs(after))
    if abs(after - before) <= max(noise, margin * abs(before - definition.tail_from)):
        return "same"
    if p_value is None or math.isnan(p_value):
        return None
    if not p_value < alpha:
        return "same"
    return "better" if (after < before) == lower else "worse"


def standing(quality: Outcome, sparsity: Outcome) -> Standing:
    """Combine the outcomes of quality and sparsity.

    A better KL alone shows little, as an SAE can buy it with more active latents.
    """
    both = {quality, sparsity}
    if both == {"better", "worse"}:
        return "trade-off"
    if "better" in both:
        return "dominates"
    return "dominated" if "worse" in both else "same"
