"""How one metric moved between two versions, paired by sequence."""

from __future__ import annotations

from dataclasses import dataclass

from sae_guard.core.comparison.standing import Outcome, outcome
from sae_guard.core.measurement import Measurement
from sae_guard.core.measurement.token_table import TokenKL
from sae_guard.core.metrics.table import metric
from sae_guard.core.statistics import Estimate
from sae_guard.core.statistics.paired import Sums, move, variance_ratio
from sae_guard.core.targets import View, terms
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
        Sums(*terms(old.measurement, View(name)), was.value),
        Sums(*terms(new.measurement, View(name)), now.value),
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
