"""What a threshold looks at, and its value with its interval.

That is a metric's mean, a quantile of its tokens or its worst sequence, over all scored tokens or a
slice of them; or how far that moved since a baseline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement
from sae_guard.core.metrics import ON_REQUEST, Metric, Side, metric
from sae_guard.core.statistics import Estimate, quantile, quantile_interval, ratio, ratio_interval
from sae_guard.errors import UndefinedMetricError, allowed

WORST = "worst_sequence"
CHANGE = "change"
"""Last part of the name of a view of how far something moved since a baseline."""
QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)")


@dataclass(frozen=True)
class View:
    """What is looked at."""

    metric: str
    statistic: str = "mean"
    """``mean``, ``p99`` and its like (of single tokens), or ``worst_sequence``."""
    slice: Slice | None = None
    change: Literal["", "difference", "share"] = ""
    """Whether it is how far that moved since a baseline, in the metric's unit or as a share of what
    it was (`sae_guard.core.comparison.change`)."""

    def __str__(self) -> str:
        name = self.metric if self.statistic == "mean" else f"{self.metric}.{self.statistic}"
        name = f"{name}.{CHANGE}" if self.change else name
        return f"{name}@{self.slice}" if self.slice else name

    @property
    def itself(self) -> View:
        """Of a change, what moves."""
        return replace(self, change="")

    @classmethod
    def of(cls, name: str, slice: Slice | None = None) -> View:
        """The view of a name such as ``kl`` or ``kl.p99``."""
        metric_name, _, statistic = name.partition(".")
        return cls(metric_name, statistic or "mean", slice)

    @classmethod
    def read(cls, text: str) -> View:
        """The view that is written so, unless it is of a change.

        Raises:
            ValueError: None is.
            SetupError: There is no such metric.
        """
        name, _, where = text.partition("@")
        found = cls.of(name, Slice.read(where) if where else None)
        if (problem := found.problem()) is not None:
            raise ValueError(problem)
        return found

    def problem(self) -> str | None:
        """Why nothing can be seen so; None if it can."""
        if self.change:
            return self.itself.problem()
        chosen = metric(self.metric)
        if self.statistic not in ("mean", WORST) and level(self.statistic) is None:
            return f"no statistic {self.statistic!r}; allowed: mean, p50, p99 and such, {WORST}"
        if self == View(self.metric):
            return None
        if chosen.firing_above is not None:
            return f"{chosen.name} is of all tokens together"
        if self.statistic == WORST and chosen.direction == "window":
            return f"{chosen.name} has no worst sequence: it is bounded on both sides"
        quantile = self.statistic not in ("mean", WORST)
        if quantile and chosen.denominator != {"n_tokens": 1}:
            return f"{chosen.name} is a ratio of sums: single tokens have none"
        whole_sequences = not quantile and (self.slice is None or self.slice.by == "source")
        if whole_sequences or _of_tokens(chosen):
            return None
        return f"{chosen.name} needs the mean activation: tokens have none alone"


def level(statistic: str) -> float | None:
    """0.99 of ``p99``; None where it is no quantile."""
    found = QUANTILE.fullmatch(statistic)
    share = float(found[1]) / 100 if found else 0.0
    return share if 0 < share < 1 else None


def _of_tokens(chosen: Metric) -> bool:
    return chosen.columns <= {*TOKEN_COLUMNS, *ON_REQUEST, "n_tokens"}


_RANGES: tuple[Literal["position", "entropy"], ...] = ("position", "entropy")


@dataclass(frozen=True)
class Slice:
    """Some of the scored tokens: by their position, by how uncertain the clean model is there, or
    by where the text comes from.

    ``low`` is inside, ``high`` is not; ``glob`` is of sources alone.
    """

    by: Literal["position", "entropy", "source"]
    low: float = 0.0
    high: float = math.inf
    glob: str = ""

    def __str__(self) -> str:
        if self.by == "source":
            return f"source={self.glob}"
        end = "" if math.isinf(self.high) else f"{self.high:g}"
        return f"{self.by}={self.low:g}..{end}"

    @classmethod
    def read(cls, text: str) -> Slice:
        """The slice that is written so; raises `ValueError` where none is."""
        by, _, what = text.partition("=")
        if by == "source":
            return cls("source", glob=what)
        low, _, high = what.partition("..")
        for kind in _RANGES:
            if by == kind:
                return cls(kind, float(low), float(high) if high else math.inf)
        raise ValueError(f"no slice {text!r}")

    def matches(self, sources: Iterable[str]) -> list[bool]:
        """Whether texts from these sources are in it."""
        return [fnmatchcase(source, self.glob) for source in sources]

    def rows(self, measurement: Measurement) -> NDArray[np.bool_]:
        """Which sequences come from its sources, shape [n_sequences].

        Raises:
            UndefinedMetricError: None does, or it is not known.
        """
        if not measurement.sources:
            raise UndefinedMetricError(f"{self}: where the sequences come from is not known")
        found = np.array(self.matches(measurement.sources), dtype=np.bool_)
        if not found.any():
            hint = allowed(self.glob, measurement.sources)
            raise UndefinedMetricError(f"{self}: no sequence comes from there; {hint}")
        return found

    def mask(self, measurement: Measurement) -> NDArray[np.bool_]:
        """Which tokens are in it, scored or not, shape [n_sequences, pos].

        Raises:
            UndefinedMetricError: As `rows`; or the values of single tokens were not kept.
        """
        table = measurement.tokens
        if table is None:
            raise UndefinedMetricError(f"{self}: values of single tokens were not kept")
        shape = table.scored.shape
        if self.by == "source":
            return np.broadcast_to(self.rows(measurement)[:, None], shape)
        by: NDArray[np.float64] | NDArray[np.float32] = table.columns["entropy"]
        if self.by == "position":
            by = np.broadcast_to(np.arange(shape[1], dtype=np.float64), shape)
        inside: NDArray[np.bool_] = (by >= self.low) & (by < self.high)
        return inside


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
