"""How a metric went from record to record, drawn in lines of a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sae_guard.core.metrics import METRICS
from sae_guard.errors import SetupError, allowed
from sae_guard.history import Recorded
from sae_guard.history.record import ThresholdRow
from sae_guard.render.numbers import number
from sae_guard.tables import table_lines

_WIDTH = 40
"""Of the drawing, in letters."""
_DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "window": "in a window"}


@dataclass(frozen=True)
class Point:
    """A metric of a record."""

    recorded: Recorded
    value: float | None
    low: float | None
    high: float | None
    unit: str
    formula_version: int | None
    threshold: ThresholdRow | None

    @property
    def group(self) -> tuple[Any, ...]:
        """Points of which are comparable: the same spec, hook point, tokens, formula and unit."""
        record = self.recorded.record
        tokens = record.provenance["corpus"].get("sha256") or ""
        place = (record.hook, record.hook_out or "")
        return (self.recorded.spec, *place, tokens, self.formula_version or 0, self.unit)


def trend(records: Sequence[Recorded], name: str) -> Iterator[str]:
    """The metric of each record with its interval and bounds, a block for what is comparable.

    Args:
        records: In the order of time.
        name: Of a metric, or of a threshold such as ``kl.p99``.

    Raises:
        SetupError: No record has it.
    """
    points = [_point(recorded, name) for recorded in records]
    if all(point is None for point in points):
        seen = {row.metric for each in records for row in each.record.thresholds}
        raise SetupError(f"no record has {name!r}; {allowed(name, seen | METRICS.keys())}")
    found = sorted((point for point in points if point), key=lambda point: point.group)
    for _, block in groupby(found, key=lambda point: point.group):
        yield from _block(name, list(block))
        yield ""


def _point(recorded: Recorded, name: str) -> Point | None:
    record = recorded.record
    threshold = next((row for row in record.thresholds if row.metric == name), None)
    metric = record.metrics.get(name)
    if metric is not None:
        return Point(
            recorded, metric.value, metric.low, metric.high, metric.unit,
            metric.formula_version, threshold,
        )  # fmt: skip
    if threshold is None:
        return None
    about = record.metrics.get(name.partition("@")[0].partition(".")[0])
    unit, version = (about.unit, about.formula_version) if about else ("", None)
    unit = "share" if threshold.change == "share" else unit
    return Point(recorded, threshold.value, threshold.low, threshold.high, unit, version, threshold)


def _block(name: str, points: Sequence[Point]) -> Iterator[str]:
    first = points[0]
    spec, hook, hook_out, tokens, version, _ = first.group
    known = METRICS.get(name.partition("@")[0].partition(".")[0])
    told = [first.unit, _DIRECTIONS[known.direction] if known else ""]
    about = ", ".join(filter(None, told))
    yield f"{name}{f' ({about})' if about else ''}  {spec}"
    place = f"{hook} → {hook_out}" if hook_out else hook
    yield f"  {place}, tokens {tokens[:8] or '?'}, formula version {version or '?'}"
    low, high = _range(points)
    rows = [_cells(point, low, high) for point in points]
    yield from table_lines(rows, right=(2,), indent="  ")


def _cells(point: Point, low: float, high: float) -> tuple[str, ...]:
    record, threshold = point.recorded.record, point.threshold
    if point.value is None:
        return (f"{record.created:%Y-%m-%d}", _named(point), "-", "", " " * _WIDTH, "undefined")
    half = ""
    if point.low is not None and point.high is not None:
        half = f"± {(point.high - point.low) / 2:.2g}"
    verdict = threshold.verdict if threshold else ""
    shown = verdict if verdict == "pass" else verdict.upper()
    return (
        f"{record.created:%Y-%m-%d}", _named(point), number(point.value), half,
        _drawn(point, low, high), shown,
    )  # fmt: skip


def _named(point: Point) -> str:
    record = point.recorded.record
    label = record.checkpoint.label
    name = record.name if label == record.name else f"{record.name} [{label}]"
    return name if len(name) <= 24 else f"…{name[-23:]}"


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """What the drawing spans: all intervals, and the bounds that are not far from them."""
    ends = [
        end for p in points for end in (p.low, p.value, p.high) if end is not None
    ]  # fmt: skip
    if not ends:
        return 0.0, 0.0
    low, high = min(ends), max(ends)
    near = 3 * (high - low) or abs(high)
    bounds = [bound for point in points for bound in _bounds(point)]
    some = [bound for bound in bounds if low - near <= bound <= high + near]
    return min([low, *some]), max([high, *some])


def _bounds(point: Point) -> list[float]:
    threshold = point.threshold
    both = (threshold.min, threshold.max) if threshold else ()
    return [bound for bound in both if bound is not None]


def _drawn(point: Point, low: float, high: float) -> str:
    """``├─●─┤`` is value and interval, ``│`` a bound."""

    def at(value: float) -> int:
        return round((value - low) / (high - low) * (_WIDTH - 1)) if high > low else _WIDTH // 2

    canvas = ["·"] * _WIDTH
    for bound in _bounds(point):
        if low <= bound <= high:
            canvas[at(bound)] = "│"
    if point.low is not None and point.high is not None:
        start, end = at(point.low), at(point.high)
        canvas[start : end + 1] = "─" * (end + 1 - start)
        canvas[start], canvas[end] = "├", "┤"
    if point.value is not None:
        canvas[at(point.value)] = "●"
    return "".join(canvas)
