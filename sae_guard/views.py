"""What a threshold looks at: a metric's mean, a quantile of its tokens or its worst sequence, over
all scored tokens or a slice of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.errors import UndefinedMetricError
from sae_guard.measurement import Measurement
from sae_guard.metrics.metric import Side
from sae_guard.metrics.table import ON_REQUEST, Metric, metric
from sae_guard.statistics import Estimate, quantile, quantile_interval, ratio, ratio_interval
from sae_guard.token_table import TOKEN_COLUMNS, TokenTable

WORST = "worst_sequence"
QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)")


@dataclass(frozen=True)
class Slice:
    """Some of the scored tokens: by their position, or by how uncertain the clean model is there.

    ``low`` is inside, ``high`` is not.
    """

    by: Literal["position", "entropy"]
    low: float = 0.0
    high: float = math.inf

    def __str__(self) -> str:
        end = "" if math.isinf(self.high) else f"{self.high:g}"
        return f"{self.by}={self.low:g}..{end}"

    def mask(self, table: TokenTable) -> NDArray[np.bool_]:
        """Which tokens are in it, scored or not, shape [n_sequences, pos]."""
        by: NDArray[np.float64] | NDArray[np.float32] = table.columns["entropy"]
        if self.by == "position":
            by = np.broadcast_to(np.arange(table.scored.shape[1], dtype=np.float64), by.shape)
        inside: NDArray[np.bool_] = (by >= self.low) & (by < self.high)
        return inside


@dataclass(frozen=True)
class View:
    """What is looked at."""

    metric: str
    statistic: str = "mean"
    """``mean``, ``p99`` and its like (of single tokens), or ``worst_sequence``."""
    slice: Slice | None = None

    def __str__(self) -> str:
        name = self.metric if self.statistic == "mean" else f"{self.metric}.{self.statistic}"
        return f"{name}@{self.slice}" if self.slice else name

    @classmethod
    def of(cls, name: str, slice: Slice | None = None) -> View:
        """The view of a name such as ``kl`` or ``kl.p99``."""
        metric_name, _, statistic = name.partition(".")
        return cls(metric_name, statistic or "mean", slice)

    def problem(self) -> str | None:
        """Why nothing can be seen so; None if it can."""
        chosen = metric(self.metric)
        if self.statistic not in ("mean", WORST) and level(self.statistic) is None:
            return f"no statistic {self.statistic!r}; allowed: mean, p50, p99 and such, {WORST}"
        if self == View(self.metric):
            return None
        if chosen.firing_above is not None:
            return f"{chosen.name} is of all tokens together"
        if self.statistic == WORST:
            known = self.slice is None or _of_tokens(chosen)
            both = chosen.direction == "window"
            if both:
                return f"{chosen.name} has no worst sequence: it is bounded on both sides"
        else:
            known = _of_tokens(chosen)
            if self.statistic != "mean" and chosen.denominator != {"n_tokens": 1}:
                return f"{chosen.name} is a ratio of sums: single tokens have none"
        return None if known else f"{chosen.name} needs the mean activation: tokens have none alone"


def level(statistic: str) -> float | None:
    """0.99 of ``p99``; None where it is no quantile."""
    found = QUANTILE.fullmatch(statistic)
    share = float(found[1]) / 100 if found else 0.0
    return share if 0 < share < 1 else None


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
    if view == View(view.metric):
        return measurement.estimate(view.metric, confidence=confidence, whole=whole)
    measurement.check_rows(view.metric, whole=whole)
    chosen, (sums, mask) = metric(view.metric), _looked_at(measurement, view)
    n_tokens, n_sequences = int(sums["n_tokens"].sum()), int((sums["n_tokens"] > 0).sum())
    if not n_tokens:
        raise UndefinedMetricError(f"{view}: no token is scored there")
    low = high = None
    numerator, denominator = _terms(sums, chosen)
    if view.statistic == WORST:
        value = _worst(chosen, numerator, denominator)
    elif (share := level(view.statistic)) is not None:
        values, scored = _tokens(measurement, view, mask)
        value, low, high = _quantile(values, scored, share, confidence)
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
    return _terms(_looked_at(measurement, view)[0], metric(view.metric))


def beyond(measurement: Measurement, view: View, bound: float, side: Side) -> Terms:
    """The tokens of each sequence past a bound of a quantile, and its tokens."""
    values, scored = _tokens(measurement, view, _looked_at(measurement, view)[1])
    if not np.isfinite(values[scored]).all():
        raise UndefinedMetricError(f"{view}: a token's value is not finite")
    past = scored & (values > bound if side == "max" else values < bound)
    count, n = (mask.sum(axis=1, dtype=np.float64) for mask in (past, scored))
    return Terms(count, n)


def _looked_at(
    measurement: Measurement, view: View
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.bool_] | None]:
    """Per sequence the sums of the tokens of a view and, where single tokens matter, which."""
    if view.slice is None and view.statistic in ("mean", WORST):
        return measurement.sums, None
    table = measurement.tokens
    if table is None:
        raise UndefinedMetricError(f"{view}: values of single tokens were not kept")
    mask = np.ones_like(table.scored) if view.slice is None else view.slice.mask(table)
    return table.sums(mask), mask


def _tokens(
    measurement: Measurement, view: View, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    table = measurement.tokens
    assert table is not None
    assert mask is not None
    scored = table.scored & mask
    return np.where(scored, table.combined(metric(view.metric).numerator), np.nan), scored


def _terms(sums: Mapping[str, NDArray[np.float64]], chosen: Metric) -> Terms:
    return Terms(_combined(sums, chosen.numerator), _combined(sums, chosen.denominator))


def _of_tokens(chosen: Metric) -> bool:
    return chosen.columns <= {*TOKEN_COLUMNS, *ON_REQUEST, "n_tokens"}


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
    found = quantile(values[scored], share)
    below = (scored & (values <= found)).sum(axis=1).astype(np.float64)
    interval = quantile_interval(
        values[scored], share, below, scored.sum(axis=1).astype(np.float64), confidence=confidence
    )
    return found, *(interval or (None, None))
