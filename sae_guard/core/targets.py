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
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement
from sae_guard.core.metrics import ON_REQUEST, Metric, Side, metric
from sae_guard.core.statistics import Estimate, quantile, quantile_interval, ratio, ratio_interval
from sae_guard.errors import SetupError, UndefinedMetricError, allowed

WORST = "worst_sequence"
CHANGE = "change"
"""Last part of the name of a change since a baseline."""
QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)")


@dataclass(frozen=True)
class Target:
    """What a threshold looks at. `str` writes it as node ids, records and reports have it, such as
    ``kl.p99@position=0..8``, and `parse` reads that again."""

    metric: str
    statistic: str = "mean"
    """``mean``, ``p99`` and its like (of single tokens), or ``worst_sequence``."""
    slice: Slice | None = None
    """Which of the scored tokens; None for all."""
    change: bool = False
    """Whether it is how far that moved since a baseline (`sae_guard.core.comparison.change`)."""

    def __str__(self) -> str:
        parts = [self.metric, *([self.statistic] if self.statistic != "mean" else [])]
        name = ".".join([*parts, *([CHANGE] if self.change else [])])
        return f"{name}@{self.slice}" if self.slice else name

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read what `str` writes. Whether such a target exists, `problem` says.

        Raises:
            ValueError: The slice is none.
        """
        name, _, part = text.partition("@")
        whole = name.removesuffix(f".{CHANGE}")
        metric_name, _, statistic = whole.partition(".")
        return cls(
            metric_name, statistic or "mean", Slice.parse(part) if part else None, whole != name
        )

    @property
    def itself(self) -> Target:
        """Of a change, what moves."""
        return replace(self, change=False)

    @property
    def whole(self) -> bool:
        """Whether it is a metric as the table of metrics has it: the mean over all tokens."""
        return self == Target(self.metric)

    def problem(self) -> str | None:
        """Say why there is no such target; None if there is.

        Raises:
            SetupError: There is no such metric.
        """
        if self.change:
            return self.itself.problem()
        chosen = metric(self.metric)
        if self.statistic not in ("mean", WORST) and level(self.statistic) is None:
            return f"no statistic {self.statistic!r}; allowed: mean, p50, p99 and such, {WORST}"
        if self.whole:
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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Let reports hold it as text; pydantic calls this, and nothing else imports it here."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._of_report,
            serialization=core_schema.to_string_ser_schema(),
            metadata={"pydantic_js_functions": [lambda *_: {"type": "string"}]},
        )

    @classmethod
    def _of_report(cls, value: object) -> Target:
        """Read a text, or take a target; all that pydantic names with its key is a ValueError."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text")
        target = cls.parse(value)
        try:
            problem = target.problem()
        except SetupError as error:
            raise ValueError(str(error)) from None
        if problem is not None:
            raise ValueError(f"{value}: {problem}")
        return target


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
        end = "" if math.isinf(self.high) else _shortest(self.high)
        return f"{self.by}={_shortest(self.low)}..{end}"

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Read what `str` writes; raises `ValueError` where it is no slice."""
        by, _, part = text.partition("=")
        if by == "source":
            return cls("source", glob=part)
        low, _, high = part.partition("..")
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
    measurement: Measurement, target: Target, *, confidence: float = 0.95, whole: bool = True
) -> Estimate:
    """The value, with its interval clustered by sequence.

    A quantile is the smallest value that the share of tokens does not exceed. Its interval is that
    of the share, read off at the same values (Woodruff 1952, JASA 47, 635). The worst sequence has
    none.

    Args:
        measurement: Whose rows are looked at.
        target: What is looked at.
        confidence: Of the interval.
        whole: Whether rows may not be missing; without some it is an estimate of the metric.

    Raises:
        SetupError: No metric has this name.
        UndefinedMetricError: As `Measurement.estimate`; or nothing is scored in the slice, or the
            values of single tokens were not kept.
    """
    if target.change:
        raise ValueError(f"{target} needs a baseline: sae_guard.core.comparison.change")
    if target.whole:
        return measurement.estimate(target.metric, confidence=confidence, whole=whole)
    measurement.check_rows(target.metric, whole=whole)
    sums, scored = _seen(measurement, target)
    chosen, some = metric(target.metric), sums["n_tokens"] > 0
    # Sequences without a token there say nothing of the spread.
    numerator, denominator = (column[some] for column in _terms(sums, chosen))
    n_tokens, n_sequences = int(sums["n_tokens"].sum()), int(some.sum())
    if not n_tokens:
        raise UndefinedMetricError(f"{target}: no token is scored there")
    low = high = None
    if target.statistic == WORST:
        value = _worst(chosen, numerator, denominator)
    elif (share := level(target.statistic)) is not None:
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


def _shortest(number: float) -> str:
    """The shortest text that reads as the same number: two slices never share a name."""
    return repr(float(number)).removesuffix(".0")


class Terms(NamedTuple):
    """What a bound sums per sequence: it is kept iff Σ numerator ≤ bound · Σ denominator, or ≥."""

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]


def terms(measurement: Measurement, target: Target) -> Terms:
    """The sums of a mean, per sequence."""
    return _terms(_seen(measurement, target)[0], metric(target.metric))


def present(measurement: Measurement, target: Target) -> NDArray[np.bool_]:
    """Which sequences have a token there, shape [n_sequences]: others say nothing of the spread."""
    some: NDArray[np.bool_] = _seen(measurement, target)[0]["n_tokens"] > 0
    return some


def beyond(measurement: Measurement, target: Target, bound: float, side: Side) -> Terms:
    """The tokens of each sequence past a bound of a quantile, and its tokens."""
    _, scored = _seen(measurement, target)
    assert measurement.tokens is not None
    assert scored is not None
    values = measurement.tokens.combined(metric(target.metric).numerator)
    if not np.isfinite(values[scored]).all():
        raise UndefinedMetricError(f"{target}: a token's value is not finite")
    past = scored & (values > bound if side == "max" else values < bound)
    count, n = (mask.sum(axis=1, dtype=np.float64) for mask in (past, scored))
    return Terms(count, n)


def _terms(sums: Mapping[str, NDArray[np.float64]], chosen: Metric) -> Terms:
    return Terms(_combined(sums, chosen.numerator), _combined(sums, chosen.denominator))


def _seen(
    measurement: Measurement, target: Target
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.bool_] | None]:
    """The sums of what is looked at; and which tokens, where single ones are needed."""
    part = target.slice
    if level(target.statistic) is None:
        if part is None:
            return measurement.sums, None
        if part.by == "source":
            rows = part.rows(measurement)
            return {name: np.where(rows, sums, 0) for name, sums in measurement.sums.items()}, None
    table = measurement.tokens
    if table is None:
        raise UndefinedMetricError(f"{target}: values of single tokens were not kept")
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
