"""`Target`, the quantity that a threshold bounds, and `estimate`, its value with its interval.

A target is the mean of a metric, a quantile over single tokens, or the worst sequence; over all
scored tokens or a slice of them; or the change of one of these since a baseline.
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

from sae_guard.core.measurement import TOKEN_COLUMNS, Measurement, combined
from sae_guard.core.metrics import ON_REQUEST, Metric, Side, metric
from sae_guard.core.statistics import Estimate, quantile, quantile_interval, ratio, ratio_interval
from sae_guard.errors import SetupError, UndefinedMetricError, allowed

WORST = "worst_sequence"
CHANGE = "change"
"""Suffix in the name of a target that is a change since a baseline."""
QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)")


@dataclass(frozen=True)
class Target:
    """The quantity that a threshold bounds.

    `str` writes the name used in node ids, records and reports, such as ``kl.p99@position=0..8``;
    `parse` reads it.
    """

    metric: str
    statistic: str = "mean"
    """``mean``, a quantile over single tokens such as ``p99``, or ``worst_sequence``."""
    slice: Slice | None = None
    """The slice of the scored tokens; None for all of them."""
    change: bool = False
    """True for the change since a baseline (`sae_guard.core.comparison.change`)."""

    def __str__(self) -> str:
        parts = [self.metric, *([self.statistic] if self.statistic != "mean" else [])]
        name = ".".join([*parts, *([CHANGE] if self.change else [])])
        return f"{name}@{self.slice}" if self.slice else name

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read the text that `str` writes; `problem` checks that such a target exists.

        Raises:
            ValueError: The part after ``@`` is not a slice.
        """
        name, _, part = text.partition("@")
        quantity = name.removesuffix(f".{CHANGE}")
        metric_name, _, statistic = quantity.partition(".")
        return cls(
            metric_name, statistic or "mean", Slice.parse(part) if part else None, quantity != name
        )

    @property
    def itself(self) -> Target:
        """The target without ``change``: the quantity whose change is bounded."""
        return replace(self, change=False)

    @property
    def whole(self) -> bool:
        """True for the mean of a metric over all scored tokens, as the table of metrics has it."""
        return self == Target(self.metric)

    def problem(self) -> str | None:
        """Return why there is no such target; None if there is.

        Raises:
            SetupError: There is no metric of this name.
        """
        if self.change:
            return self.itself.problem()
        definition = metric(self.metric)
        if self.statistic not in ("mean", WORST) and level(self.statistic) is None:
            return f"no statistic {self.statistic!r}; allowed: mean, p50, p99 and such, {WORST}"
        if self.whole:
            return None
        if definition.firing_above is not None:
            return (
                f"{definition.name} counts latents over all tokens; allowed: {definition.name} "
                "without a statistic or a slice"
            )
        if self.statistic == WORST and definition.direction == "window":
            return f"{definition.name} has no worst sequence: it is bounded on both sides"
        quantile = self.statistic not in ("mean", WORST)
        if quantile and definition.denominator != {"n_tokens": 1}:
            return (
                f"{definition.name} is a ratio of sums and has no value for a single token; "
                f"allowed: mean, {WORST}"
            )
        per_sequence = not quantile and (self.slice is None or self.slice.by == "source")
        if per_sequence or _has_token_values(definition):
            return None
        return (
            f"{definition.name} needs the mean activation and has no value for a single token; "
            f"allowed: mean and {WORST} over all tokens or a source"
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Let reports hold a target as text.

        pydantic calls this. The import is local because pytest loads this module in every run.
        """
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._from_report,
            serialization=core_schema.to_string_ser_schema(),
            # pydantic has no JSON Schema of its own for a plain validator.
            metadata={"pydantic_js_functions": [lambda *_: {"type": "string"}]},
        )

    @classmethod
    def _from_report(cls, value: object) -> Target:
        """Return the target that a report holds, as text or as an object.

        Raises:
            ValueError: There is no such target. pydantic adds the key only to a ValueError.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a text; allowed: a target such as kl.p99")
        target = cls.parse(value)
        try:
            problem = target.problem()
        except SetupError as error:
            raise ValueError(str(error)) from None
        if problem is not None:
            raise ValueError(f"{value}: {problem}")
        return target


def level(statistic: str) -> float | None:
    """Return the level of a quantile, such as 0.99 for ``p99``; None for another statistic."""
    match = QUANTILE.fullmatch(statistic)
    share = float(match[1]) / 100 if match else 0.0
    return share if 0 < share < 1 else None


def _has_token_values(definition: Metric) -> bool:
    return definition.columns <= {*TOKEN_COLUMNS, *ON_REQUEST, "n_tokens"}


_RANGES: tuple[Literal["position", "entropy"], ...] = ("position", "entropy")


@dataclass(frozen=True)
class Slice:
    """A subset of the scored tokens: by position, entropy or source.

    Entropy is that of the clean prediction, in nats; the source is that of the text. Ranges are
    half open: ``low`` ≤ value < ``high``. ``glob`` is a file name pattern for sources.
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
        """Read the text that `str` writes; raise `ValueError` where it is no slice."""
        by, _, part = text.partition("=")
        if by == "source":
            return cls("source", glob=part)
        low, _, high = part.partition("..")
        # A loop, since mypy does not narrow a text to a Literal by `in`.
        for kind in _RANGES:
            if by == kind:
                return cls(kind, float(low), float(high) if high else math.inf)
        raise ValueError(f"no slice {text!r}")

    def matches(self, sources: Iterable[str]) -> list[bool]:
        """Return for each source whether its text belongs to the slice."""
        return [fnmatchcase(source, self.glob) for source in sources]

    def rows(self, measurement: Measurement) -> NDArray[np.bool_]:
        """Return which sequences come from a matching source, shape [n_sequences].

        Raises:
            UndefinedMetricError: No sequence does, or the sources are unknown.
        """
        if not measurement.sources:
            raise UndefinedMetricError(f"{self}: the sources of the sequences are unknown")
        matching = np.array(self.matches(measurement.sources), dtype=np.bool_)
        if not matching.any():
            hint = allowed(self.glob, measurement.sources)
            raise UndefinedMetricError(f"{self}: no sequence comes from this source; {hint}")
        return matching

    def mask(self, measurement: Measurement) -> NDArray[np.bool_]:
        """Return which tokens belong to the slice, scored or not, shape [n_sequences, pos].

        Raises:
            UndefinedMetricError: No sequence comes from a matching source, the sources are unknown,
                or the measurement has no values of single tokens.
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
    """Return the value of a target with its two-sided interval, clustered by sequence.

    The q-quantile is the smallest value v such that at least a share q of the tokens is ≤ v. The
    ends of its interval are the quantiles at the ends of that share's interval (Woodruff 1952, JASA
    47, 635). The worst sequence has no interval.

    Args:
        measurement: Measurement to take the value from.
        target: Target that is not a change.
        confidence: Confidence level of the interval, such as 0.95.
        whole: True to require every sequence of the corpus; False also accepts the first rows, and
            the result is then an estimate of the metric.

    Raises:
        SetupError: There is no metric of this name.
        UndefinedMetricError: The metric is undefined (see `Measurement.estimate`), no token of the
            slice is scored, or the measurement has no values of single tokens.
    """
    if target.change:
        raise ValueError(f"{target} needs a baseline: sae_guard.core.comparison.change")
    if target.whole:
        return measurement.estimate(target.metric, confidence=confidence, whole=whole)
    measurement.check_rows(target.metric, whole=whole)
    sums, scored = _sums(measurement, target)
    definition, nonempty = metric(target.metric), sums["n_tokens"] > 0
    # A sequence without a token in the slice is no cluster: it would only inflate n.
    numerator, denominator = (column[nonempty] for column in _terms(sums, definition))
    n_tokens, n_sequences = int(sums["n_tokens"].sum()), int(nonempty.sum())
    if not n_tokens:
        raise UndefinedMetricError(f"{target}: no token of the slice is scored")
    low = high = None
    if target.statistic == WORST:
        value = _worst(definition, numerator, denominator)
    elif (share := level(target.statistic)) is not None:
        assert measurement.tokens is not None
        assert scored is not None
        values = measurement.tokens.combined(definition.numerator)[nonempty]
        value, low, high = _quantile(values, scored[nonempty], share, confidence)
    else:
        value = ratio(numerator, denominator, floor=definition.min_denominator * n_tokens)
        low, high = ratio_interval(
            numerator, denominator, value, confidence=confidence
        ) or (None, None)  # fmt: skip
    return Estimate(value, low, high, n_tokens, n_sequences, confidence)


def _shortest(number: float) -> str:
    """Return the shortest text that reads as the same float, so that slices never share a name."""
    return repr(float(number)).removesuffix(".0")


class Terms(NamedTuple):
    """The two sums per sequence that a mean is the ratio of, shape [n_sequences] each.

    A ``max`` holds iff Σ numerator ≤ bound · Σ denominator; a ``min`` iff it is ≥.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]


def terms(measurement: Measurement, target: Target) -> Terms:
    """Return numerator and denominator of a mean, per sequence."""
    return _terms(_sums(measurement, target)[0], metric(target.metric))


def nonempty_sequences(measurement: Measurement, target: Target) -> NDArray[np.bool_]:
    """Return which sequences have a scored token in the slice, shape [n_sequences].

    The others are no clusters: they would only inflate n.
    """
    nonempty: NDArray[np.bool_] = _sums(measurement, target)[0]["n_tokens"] > 0
    return nonempty


def counts_past_bound(measurement: Measurement, target: Target, bound: float, side: Side) -> Terms:
    """Count, per sequence, the scored tokens beyond ``bound`` (numerator) and all (denominator).

    Raises:
        UndefinedMetricError: The value of a scored token is not finite.
    """
    _, scored = _sums(measurement, target)
    assert measurement.tokens is not None
    assert scored is not None
    values = measurement.tokens.combined(metric(target.metric).numerator)
    if not np.isfinite(values[scored]).all():
        raise UndefinedMetricError(f"{target}: a token's value is not finite")
    past = scored & (values > bound if side == "max" else values < bound)
    count, n = (mask.sum(axis=1, dtype=np.float64) for mask in (past, scored))
    return Terms(count, n)


def _terms(sums: Mapping[str, NDArray[np.float64]], definition: Metric) -> Terms:
    return Terms(combined(sums, definition.numerator), combined(sums, definition.denominator))


def _sums(
    measurement: Measurement, target: Target
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.bool_] | None]:
    """Return the columns summed per sequence over the slice of a target, and its token mask.

    The mask, shape [n_sequences, pos], is None where whole sequences suffice.
    """
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


def _worst(
    definition: Metric, numerator: NDArray[np.float64], denominator: NDArray[np.float64]
) -> float:
    nonzero = denominator != 0
    ratios = numerator[nonzero] / denominator[nonzero]
    # Below a negative denominator a larger ratio is not a worse one.
    if not (ratios.size and np.isfinite(ratios).all() and (denominator[nonzero] > 0).all()):
        raise UndefinedMetricError(
            f"{definition.name} has no worst sequence: it is undefined for some sequences"
        )
    return float(ratios.max() if definition.direction == "lower" else ratios.min())


def _quantile(
    values: NDArray[np.float64], scored: NDArray[np.bool_], share: float, confidence: float
) -> tuple[float, float | None, float | None]:
    """Return the quantile of the scored values and its interval.

    Args:
        values: Values of tokens, shape [n_sequences, pos].
        scored: Mask of the same shape; every sequence has a scored token.
        share: Level of the quantile.
        confidence: Confidence level of the interval.
    """
    value = quantile(values[scored], share)
    counts = (scored & (values <= value)).sum(axis=1).astype(np.float64)  # [n_sequences]
    interval = quantile_interval(
        values[scored], share, counts, scored.sum(axis=1).astype(np.float64), confidence=confidence
    )
    return value, *(interval or (None, None))
