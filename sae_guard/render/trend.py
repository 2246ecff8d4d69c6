"""A metric from record to record → lines of a terminal that draw it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sae_guard.core.metrics import METRICS
from sae_guard.errors import SetupError, allowed
from sae_guard.history import Recorded
from sae_guard.history.record import MetricRow, ThresholdRow
from sae_guard.render.numbers import half_width, number
from sae_guard.tables import table_lines

_WIDTH = 40
"""Width of the drawing, in characters."""
_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "window": "in a window"}


@dataclass(frozen=True)
class TrendPoint:
    """A metric of a record."""

    recorded: Recorded
    row: MetricRow | ThresholdRow
    """The row of the record with the value and its interval."""
    unit: str
    formula_version: int | None
    threshold: ThresholdRow | None

    @property
    def group(self) -> tuple[Any, ...]:
        """Spec, hook points, tokens, formula version and unit.

        Only points of the same group are comparable.
        """
        record, version = self.recorded.record, self.formula_version or 0
        return (self.recorded.spec, record.hooks, record.tokens_sha256, version, self.unit)


def trend(records: Sequence[Recorded], name: str) -> Iterator[str]:
    """Draw a metric of all records with intervals and bounds, one block per comparable group.

    Args:
        records: The records, oldest first.
        name: Name of a metric, or of the target of a threshold, such as ``kl.p99``.

    Raises:
        SetupError: No record has the metric.
    """
    points = [_point(recorded, name) for recorded in records]
    if all(point is None for point in points):
        names = {row.metric for recorded in records for row in recorded.record.thresholds}
        raise SetupError(f"no record has {name!r}; {allowed(name, names | METRICS.keys())}")
    # For `groupby`.
    by_group = sorted((point for point in points if point), key=lambda point: point.group)
    for _, block in groupby(by_group, key=lambda point: point.group):
        yield from _block(name, list(block))
        yield ""


def _point(recorded: Recorded, name: str) -> TrendPoint | None:
    record = recorded.record
    threshold = next((row for row in record.thresholds if row.metric == name), None)
    metric = record.metrics.get(name)
    if metric is not None:
        return TrendPoint(recorded, metric, metric.unit, metric.formula_version, threshold)
    if threshold is None:
        return None
    # A quantile or a slice has the unit and the formula of its metric.
    row = record.metrics.get(_metric_name(name))
    unit, version = (row.unit, row.formula_version) if row else ("", None)
    unit = "share" if threshold.change == "share" else unit
    return TrendPoint(recorded, threshold, unit, version, threshold)


def _metric_name(target: str) -> str:
    """Return the metric of a target, such as ``kl`` of ``kl.p99@position=0..8``."""
    return target.partition("@")[0].partition(".")[0]


def _block(name: str, points: Sequence[TrendPoint]) -> Iterator[str]:
    first = points[0]
    spec, hooks, tokens, version, _ = first.group
    metric = METRICS.get(_metric_name(name))
    remarks = [first.unit, _DIRECTIONS[metric.direction] if metric else ""]
    in_parentheses = ", ".join(filter(None, remarks))
    yield f"{name}{f' ({in_parentheses})' if in_parentheses else ''}  {spec}"
    yield f"  {hooks}, tokens {tokens[:8] or '?'}, formula version {version or '?'}"
    low, high = _range(points)
    rows = [_cells(point, low, high) for point in points]
    yield from table_lines(rows, right=(2,), indent="  ")


def _cells(point: TrendPoint, low: float, high: float) -> tuple[str, ...]:
    threshold = point.threshold
    version = (f"{point.recorded.record.created:%Y-%m-%d}", _version_name(point))
    if point.row.value is None:
        return (*version, "-", "", " " * _WIDTH, "undefined")
    width = half_width(point.row.low, point.row.high)
    half = f"± {width}" if width else ""
    verdict = threshold.verdict if threshold else ""
    words = verdict if verdict == "pass" else verdict.upper()
    return (*version, number(point.row.value), half, _drawn(point, low, high), words)


def _version_name(point: TrendPoint) -> str:
    record = point.recorded.record
    label = record.checkpoint.label
    name = record.name if label == record.name else f"{record.name} [{label}]"
    return name if len(name) <= 24 else f"…{name[-23:]}"


def _range(points: Sequence[TrendPoint]) -> tuple[float, float]:
    """Return the range of the drawing: all intervals, and the bounds that are close to them."""
    ends = [
        end for p in points for end in (p.row.low, p.row.value, p.row.high) if end is not None
    ]  # fmt: skip
    if not ends:
        return 0.0, 0.0
    low, high = min(ends), max(ends)
    # A bound further away than this would press all points into a few characters.
    margin = 3 * (high - low) or abs(high)
    bounds = [bound for point in points for bound in _bounds(point)]
    close = [bound for bound in bounds if low - margin <= bound <= high + margin]
    return min([low, *close]), max([high, *close])


def _bounds(point: TrendPoint) -> list[float]:
    threshold = point.threshold
    both = (threshold.min, threshold.max) if threshold else ()
    return [bound for bound in both if bound is not None]


def _drawn(point: TrendPoint, low: float, high: float) -> str:
    """Draw value and interval as ``├─●─┤``, and a bound as ``│``."""

    def at(value: float) -> int:
        return round((value - low) / (high - low) * (_WIDTH - 1)) if high > low else _WIDTH // 2

    canvas = ["·"] * _WIDTH
    for bound in _bounds(point):
        if low <= bound <= high:
            canvas[at(bound)] = "│"
    if point.row.low is not None and point.row.high is not None:
        start, end = at(point.row.low), at(point.row.high)
        canvas[start : end + 1] = "─" * (end + 1 - start)
        canvas[start], canvas[end] = "├", "┤"
    if point.row.value is not None:
        canvas[at(point.row.value)] = "●"
    return "".join(canvas)
