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
from sae_guard.core.targets import WORST, View, estimate, level, present, terms
from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True, eq=False)
class Baseline:
    """What was measured of an earlier version."""

    name: str
    """Which version, for messages."""
    measurement: Measurement
    values: Mapping[str, float] = field(default_factory=dict)
    """View → its value, of those that the measurement, without single tokens, no longer has."""
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
    baseline: Baseline, measurement: Measurement, view: View, *, confidence: float = 0.95
) -> tuple[Estimate, Change]:
    """How far the view moved, with its paired interval.

    Args:
        baseline: Where it was.
        measurement: Of the same sequences.
        view: Of a change.
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
    formula = formula_difference(there.provenance, measurement.provenance, view.metric)
    refused = [*told.refused, *([formula] if formula else [])]
    if refused := [*refused, *(told.noted if baseline.strict else ())]:
        raise UndefinedMetricError(
            f"{view}: not comparable with {baseline.name}: {'; '.join(refused)}"
        )
    now = estimate(measurement, view.itself, confidence=confidence)
    before = _before(baseline, view.itself)
    if not _same_rows(there, measurement, view):
        raise UndefinedMetricError(
            f"{view}: not comparable with {baseline.name}: other sequences came from there"
        )
    value, low, high, p_value = now.value - before, None, None, None
    share = view.change == "share"
    try:
        if _paired(there, view):
            some = _some(there, measurement, view.itself)
            moved = move(
                _sums(there, view.itself, before, some),
                _sums(measurement, view.itself, now.value, some),
                share=share,
                confidence=confidence,
            )
            value, low, high, p_value = moved.value, moved.low, moved.high, moved.p_value
        elif share:
            value /= check_share(before)
    except UndefinedMetricError as error:
        raise UndefinedMetricError(f"{view}: at {baseline.name} {error}") from None
    found = Estimate(value, low, high, now.n_tokens, now.n_sequences, confidence)
    return found, Change(before, now.value, p_value, baseline.name, told.noted)


def _before(baseline: Baseline, view: View) -> float:
    if not _needs_tokens(view) or baseline.measurement.tokens is not None:
        try:
            return estimate(baseline.measurement, view).value
        except UndefinedMetricError as error:
            raise UndefinedMetricError(f"{baseline.name} has no {view}: {error}") from None
    if str(view) not in baseline.values:
        raise UndefinedMetricError(
            f"{baseline.name} has no {view}: the rows of a record do not tell it, and the spec had "
            "no threshold on it when this one was recorded"
        )
    return baseline.values[str(view)]


def _same_rows(before: Measurement, after: Measurement, view: View) -> bool:
    """Whether a slice by source holds the same sequences: where a text comes from is in no hash."""
    part = view.slice
    if part is None or part.by != "source":
        return True
    return np.array_equal(part.rows(before), part.rows(after))


def _paired(before: Measurement, view: View) -> bool:
    """Whether both have a row per sequence of what the view is a ratio of."""
    rows = view.statistic == "mean" and metric(view.metric).firing_above is None
    return rows and (before.tokens is not None or not _needs_tokens(view))


def _some(before: Measurement, after: Measurement, view: View) -> NDArray[np.bool_]:
    """Which sequences say something of the spread, as `targets.estimate` has it."""
    if view.slice is None:
        return np.ones(after.n_sequences, dtype=np.bool_)
    return present(before, view) | present(after, view)


def _sums(measurement: Measurement, view: View, value: float, some: NDArray[np.bool_]) -> Sums:
    numerator, denominator = terms(measurement, view)
    return Sums(numerator[some], denominator[some], value)


def _needs_tokens(view: View) -> bool:
    """Whether sums of sequences do not tell it."""
    if view.statistic not in ("mean", WORST):
        return level(view.statistic) is not None
    return view.slice is not None and view.slice.by != "source"
