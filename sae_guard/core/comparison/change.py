"""How far a metric moved since a baseline: the paired change of what a threshold looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.comparison.comparable import differences, formula_difference
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import metric
from sae_guard.core.statistics import Estimate
from sae_guard.core.statistics.paired import Sums, check_share, move
from sae_guard.core.targets import WORST, Target, estimate, level, present, terms
from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True, eq=False)
class Baseline:
    """What was measured of an earlier version."""

    name: str
    """Which version, for messages."""
    measurement: Measurement
    values: Mapping[str, float] = field(default_factory=dict)
    """Target → its value, of those that the measurement, without single tokens, no longer has."""
    strict: bool = False
    """Whether another device and other versions of libraries are refused, not noted."""


@dataclass(frozen=True)
class Change:
    """From where to where."""

    before: float
    after: float
    p_value: float | None
    """Two-sided, of no change at all; None where rows cannot be compared one by one."""
    baseline: str
    """Which version was before."""
    noted: tuple[str, ...] = ()
    """What else differs and may move numbers a little."""


def change(
    baseline: Baseline,
    measurement: Measurement,
    target: Target,
    *,
    relative: bool = False,
    confidence: float = 0.95,
) -> tuple[Estimate, Change]:
    """Say how far a target moved, with its paired interval.

    Args:
        baseline: Where it was.
        measurement: Of the same sequences.
        target: Of a change.
        relative: Whether to give it as a share of what it was, not in the metric's unit.
        confidence: Of the interval.

    Means of tokens are compared row by row. Quantiles, the worst sequence and shares of latents
    have no rows: their values are compared, and there is no interval. Neither is there for slices
    by position or entropy of a baseline without single tokens.

    Raises:
        UndefinedMetricError: The two are not comparable, which the message explains; or one of the
            values is undefined, or of the baseline not known.
    """
    there = baseline.measurement
    told = differences(there, measurement)
    formula = formula_difference(there.provenance, measurement.provenance, target.metric)
    refused = [*told.refused, *([formula] if formula else [])]
    if refused := [*refused, *(told.noted if baseline.strict else ())]:
        raise UndefinedMetricError(
            f"{target}: not comparable with {baseline.name}: {'; '.join(refused)}"
        )
    now = estimate(measurement, target.itself, confidence=confidence)
    before = _before(baseline, target.itself)
    if not _same_rows(there, measurement, target):
        raise UndefinedMetricError(
            f"{target}: not comparable with {baseline.name}: other sequences came from there"
        )
    value, low, high, p_value = now.value - before, None, None, None
    try:
        if _paired(there, target):
            some = _some(there, measurement, target.itself)
            moved = move(
                _sums(there, target.itself, before, some),
                _sums(measurement, target.itself, now.value, some),
                share=relative,
                confidence=confidence,
            )
            value, low, high, p_value = moved.value, moved.low, moved.high, moved.p_value
        elif relative:
            value /= check_share(before)
    except UndefinedMetricError as error:
        raise UndefinedMetricError(f"{target}: at {baseline.name} {error}") from None
    found = Estimate(value, low, high, now.n_tokens, now.n_sequences, confidence)
    return found, Change(before, now.value, p_value, baseline.name, told.noted)


def _before(baseline: Baseline, target: Target) -> float:
    if not _needs_tokens(target) or baseline.measurement.tokens is not None:
        try:
            return estimate(baseline.measurement, target).value
        except UndefinedMetricError as error:
            raise UndefinedMetricError(f"{baseline.name} has no {target}: {error}") from None
    if str(target) not in baseline.values:
        raise UndefinedMetricError(
            f"{baseline.name} has no {target}: the rows of a record do not tell it, and the spec "
            "had no threshold on it when this one was recorded"
        )
    return baseline.values[str(target)]


def _same_rows(before: Measurement, after: Measurement, target: Target) -> bool:
    """Whether a slice by source holds the same sequences: where a text comes from is in no hash."""
    part = target.slice
    if part is None or part.by != "source":
        return True
    return np.array_equal(part.rows(before), part.rows(after))


def _paired(before: Measurement, target: Target) -> bool:
    """Whether both have a row per sequence of what the target is a ratio of."""
    rows = target.statistic == "mean" and metric(target.metric).firing_above is None
    return rows and (before.tokens is not None or not _needs_tokens(target))


def _some(before: Measurement, after: Measurement, target: Target) -> NDArray[np.bool_]:
    """Which sequences say something of the spread, as `targets.estimate` has it."""
    if target.slice is None:
        return np.ones(after.n_sequences, dtype=np.bool_)
    return present(before, target) | present(after, target)


def _sums(measurement: Measurement, target: Target, value: float, some: NDArray[np.bool_]) -> Sums:
    numerator, denominator = terms(measurement, target)
    return Sums(numerator[some], denominator[some], value)


def _needs_tokens(target: Target) -> bool:
    """Whether sums of sequences do not tell it."""
    if target.statistic not in ("mean", WORST):
        return level(target.statistic) is not None
    return target.slice is not None and target.slice.by != "source"
