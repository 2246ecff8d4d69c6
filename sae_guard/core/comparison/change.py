"""Compute the change of a target since a baseline, paired by sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.comparison.comparable import differences, formula_difference, shape_differences
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import metric
from sae_guard.core.statistics import Estimate
from sae_guard.core.statistics.paired import Sums, check_share, move
from sae_guard.core.targets import WORST, Target, estimate, level, nonempty_sequences, terms
from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True, eq=False)
class Baseline:
    """The measurement of an earlier version that thresholds on a change compare with."""

    name: str
    """Name of the version, for messages."""
    measurement: Measurement
    values: Mapping[str, float] = field(default_factory=dict)
    """Target → its recorded value, for targets that need single tokens, which records drop."""
    strict: bool = False
    """True to refuse a baseline from another device or other library versions, instead of a
    warning."""
    same_shape: bool = False
    """True to refuse a baseline of another architecture, d_sae or k: no name says that one is an
    earlier version of the other."""


@dataclass(frozen=True)
class Change:
    """The values that a change is between."""

    before: float
    """Value at the baseline."""
    after: float
    """Value now."""
    p_value: float | None
    """Two-sided p-value of the hypothesis that nothing changed; None where rows cannot be paired.
    """
    baseline: str
    """Name of the earlier version."""
    noted: tuple[str, ...] = ()
    """Other differences that may change numbers slightly, one sentence each."""


def change(
    baseline: Baseline,
    measurement: Measurement,
    target: Target,
    *,
    relative: bool = False,
    confidence: float = 0.95,
) -> tuple[Estimate, Change]:
    """Return the change of a target since a baseline, with its paired interval.

    Means over tokens are paired by sequence (`statistics.paired.move`). Quantiles, the worst
    sequence and shares of latents are no sums over sequences: their values are subtracted, and
    there is no interval. The same holds for slices by position or entropy if the baseline has no
    values of single tokens.

    Args:
        baseline: The earlier measurement.
        measurement: The measurement now, of the same sequences.
        target: Target with ``change`` set.
        relative: True to divide the change by the baseline's value.
        confidence: Confidence level of the interval.

    Returns:
        The change as an estimate, in the metric's unit or as a share; and the values before and
        after.

    Raises:
        UndefinedMetricError: The two are not comparable, for the reasons that the message lists; or
            a value is undefined, or unknown for the baseline.
    """
    old = baseline.measurement
    comparability = differences(old, measurement)
    formula = formula_difference(old.provenance, measurement.provenance, target.metric)
    refused = [*comparability.refused, *([formula] if formula else [])]
    if baseline.same_shape:
        refused += shape_differences(old.provenance, measurement.provenance)
    if refused := [*refused, *(comparability.noted if baseline.strict else ())]:
        raise UndefinedMetricError(
            f"{target}: not comparable with {baseline.name}: {'; '.join(refused)}"
        )
    now = estimate(measurement, target.itself, confidence=confidence)
    before = _before(baseline, target.itself)
    if not _same_rows(old, measurement, target):
        raise UndefinedMetricError(
            f"{target}: not comparable with {baseline.name}: the source of some sequences changed"
        )
    value, low, high, p_value = now.value - before, None, None, None
    try:
        if _can_pair(old, target):
            rows = _nonempty(old, measurement, target.itself)
            paired = move(
                _sums(old, target.itself, before, rows),
                _sums(measurement, target.itself, now.value, rows),
                share=relative,
                confidence=confidence,
            )
            value, low, high, p_value = paired.value, paired.low, paired.high, paired.p_value
        elif relative:
            value /= check_share(before)
    except UndefinedMetricError as error:
        raise UndefinedMetricError(f"{target}: at {baseline.name} {error}") from None
    difference = Estimate(value, low, high, now.n_tokens, now.n_sequences, confidence)
    return difference, Change(before, now.value, p_value, baseline.name, comparability.noted)


def _before(baseline: Baseline, target: Target) -> float:
    """Return the value at the baseline, from its measurement or as it was recorded."""
    if not _needs_tokens(target) or baseline.measurement.tokens is not None:
        try:
            return estimate(baseline.measurement, target).value
        except UndefinedMetricError as error:
            raise UndefinedMetricError(f"{baseline.name} has no {target}: {error}") from None
    if str(target) not in baseline.values:
        raise UndefinedMetricError(
            f"{baseline.name} has no {target}: the rows of a record do not determine it, and the "
            "spec had no threshold on it when this version was recorded: record a new baseline"
        )
    return baseline.values[str(target)]


def _same_rows(before: Measurement, after: Measurement, target: Target) -> bool:
    """Return whether a slice by source has the same sequences: no hash covers their sources."""
    part = target.slice
    if part is None or part.by != "source":
        return True
    return np.array_equal(part.rows(before), part.rows(after))


def _can_pair(before: Measurement, target: Target) -> bool:
    """Return whether both measurements have the sums per sequence that the target is a ratio of."""
    rows = target.statistic == "mean" and metric(target.metric).firing_above is None
    return rows and (before.tokens is not None or not _needs_tokens(target))


def _nonempty(before: Measurement, after: Measurement, target: Target) -> NDArray[np.bool_]:
    """Return which sequences have a token in the slice; the others are no clusters."""
    if target.slice is None:
        return np.ones(after.n_sequences, dtype=np.bool_)
    return nonempty_sequences(before, target) | nonempty_sequences(after, target)


def _sums(measurement: Measurement, target: Target, value: float, rows: NDArray[np.bool_]) -> Sums:
    numerator, denominator = terms(measurement, target)
    return Sums(numerator[rows], denominator[rows], value)


def _needs_tokens(target: Target) -> bool:
    """Return whether the target needs values of single tokens, not only sums per sequence."""
    if target.statistic not in ("mean", WORST):
        return level(target.statistic) is not None
    return target.slice is not None and target.slice.by != "source"
