"""The value of what is looked at, with its interval, and the sums that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics.metric import Side
from sae_guard.core.metrics.table import Metric, metric
from sae_guard.core.statistics import Estimate, quantile, quantile_interval, ratio, ratio_interval
from sae_guard.core.targets.view import WORST, View, level
from sae_guard.errors import UndefinedMetricError


def estimate(
    measurement: Measurement, view: View, *, confidence: float = 0.95, whole: bool = True
) -> Estimate:
    """The value, with its interval clustered by sequence.

    A quantile is the smallest value that the share of tokens does not exceed. Its interval is that
    of the share, read off at the same values (Woodruff 1952, JASA 47, 635). The worst sequence has
    none.

    Args:
        measurement: Whose rows are looked at.
        view: What is looked at.
        confidence: Of the interval.
        whole: Whether rows may not be missing; without some it is an estimate of the metric.

    Raises:
        SetupError: No metric has this name.
        UndefinedMetricError: As `Measurement.estimate`; or nothing is scored in the slice, or the
            values of single tokens were not kept.
    """
    if view.change:
        raise ValueError(f"{view} needs a baseline: sae_guard.core.comparison.change")
    if view == View(view.metric):
        return measurement.estimate(view.metric, confidence=confidence, whole=whole)
    measurement.check_rows(view.metric, whole=whole)
    sums, scored = _seen(measurement, view)
    chosen, some = metric(view.metric), sums["n_tokens"] > 0
    # Sequences without a token there say nothing of the spread.
    numerator, denominator = (column[some] for column in _terms(sums, chosen))
    n_tokens, n_sequences = int(sums["n_tokens"].sum()), int(some.sum())
    if not n_tokens:
        raise UndefinedMetricError(f"{view}: no token is scored there")
    low = high = None
    if view.statistic == WORST:
        value = _worst(chosen, numerator, denominator)
    elif (share := level(view.statistic)) is not None:
        assert measurement.tokens is not None
        assert scored is not None
        values = measurement.tokens.combined(chosen.numerator)[some]
        value, low, high = _quantile(values, scored[some], share, confidence)
    else:
        value = ratio(numerator, denominator, floor=chosen.min_denominator * n_tokens)
        low, high = ratio_interval(
            numerator, denominator, value, confidence=confidence
        ) or (None, None)  # fmt: skip
    return Estimate(value, low, high, n_tokens, n_sequences, confidence)


class Terms(NamedTuple):
    """What a bound sums per sequence: it is kept iff Σ numerator ≤ bound · Σ denominator, or ≥."""

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]


def terms(measurement: Measurement, view: View) -> Terms:
    """The sums of a mean, per sequence."""
    return _terms(_seen(measurement, view)[0], metric(view.metric))


def present(measurement: Measurement, view: View) -> NDArray[np.bool_]:
    """Which sequences have a token there, shape [n_sequences]: others say nothing of the spread."""
    some: NDArray[np.bool_] = _seen(measurement, view)[0]["n_tokens"] > 0
    return some


def beyond(measurement: Measurement, view: View, bound: float, side: Side) -> Terms:
    """The tokens of each sequence past a bound of a quantile, and its tokens."""
    _, scored = _seen(measurement, view)
    assert measurement.tokens is not None
    assert scored is not None
    values = measurement.tokens.combined(metric(view.metric).numerator)
    if not np.isfinite(values[scored]).all():
        raise UndefinedMetricError(f"{view}: a token's value is not finite")
    past = scored & (values > bound if side == "max" else values < bound)
    count, n = (mask.sum(axis=1, dtype=np.float64) for mask in (past, scored))
    return Terms(count, n)


def _terms(sums: Mapping[str, NDArray[np.float64]], chosen: Metric) -> Terms:
    return Terms(_combined(sums, chosen.numerator), _combined(sums, chosen.denominator))


def _seen(
    measurement: Measurement, view: View
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.bool_] | None]:
    """The sums of what is looked at; and which tokens, where single ones are needed."""
    part = view.slice
    if level(view.statistic) is None:
        if part is None:
            return measurement.sums, None
        if part.by == "source":
            rows = part.rows(measurement)
            return {name: np.where(rows, sums, 0) for name, sums in measurement.sums.items()}, None
    table = measurement.tokens
    if table is None:
        raise UndefinedMetricError(f"{view}: values of single tokens were not kept")
    scored = table.scored if part is None else table.scored & part.mask(measurement)
    return table.sums(scored), scored


def _combined(
    sums: Mapping[str, NDArray[np.float64]], coefficients: Mapping[str, float]
) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum([f * sums[n] for n, f in coefficients.items()], axis=0)
    return total


def _worst(
    chosen: Metric, numerator: NDArray[np.float64], denominator: NDArray[np.float64]
) -> float:
    some = denominator != 0
    ratios = numerator[some] / denominator[some]
    if not (ratios.size and np.isfinite(ratios).all() and (denominator[some] > 0).all()):
        raise UndefinedMetricError(f"{chosen.name} is not defined for every sequence")
    return float(ratios.max() if chosen.direction == "lower" else ratios.min())


def _quantile(
    values: NDArray[np.float64], scored: NDArray[np.bool_], share: float, confidence: float
) -> tuple[float, float | None, float | None]:
    """The quantile of the scored values, each sequence of which has one, and its interval."""
    found = quantile(values[scored], share)
    below = (scored & (values <= found)).sum(axis=1).astype(np.float64)
    interval = quantile_interval(
        values[scored], share, below, scored.sum(axis=1).astype(np.float64), confidence=confidence
    )
    return found, *(interval or (None, None))
