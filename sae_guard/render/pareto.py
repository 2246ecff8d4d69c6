"""Checkpoints in two metrics → a headline, and a plot in lines of a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_lowercase

from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import Pareto, ParetoVerdict, Point
from sae_guard.core.statistics import NOISE
from sae_guard.errors import SetupError
from sae_guard.history import Recorded
from sae_guard.render.numbers import distinct_numbers, number
from sae_guard.tables import table_lines

_WIDTH, _HEIGHT = 56, 12
"""Size of the plot, in characters."""
_NEW = "@"
_MOST_LEFT_OUT = 5
"""Number of records without a comparison that are listed; the others are counted."""
_Range = tuple[float, float]


def pareto_headline(verdict: ParetoVerdict) -> str:
    """Say whether a record dominates the new checkpoint, which one, and by how much."""
    pareto, point = verdict.pareto, verdict.point
    better = verdict.dominated_by
    if not better:
        records = "record" if len(verdict.others) == 1 else "records"
        return (
            f"pareto: not dominated in {pareto.x} and {pareto.y} "
            f"({_at(pareto, point)}; {len(verdict.others)} {records})"
        )
    record = better[0]
    more = f" and {len(better) - 1} more" if len(better) > 1 else ""
    x, y = _axis(pareto.x, record.x, point.x), _axis(pareto.y, record.y, point.y)
    return f"pareto: dominated in {pareto.x} and {pareto.y} by {record.name}{more} ({x}; {y})"


def _axis(name: str, record: float, new: float) -> str:
    """Write a metric of the record and of the new checkpoint, and their difference."""
    # Less than numeric noise counts as no difference, as in `Pareto.dominates`.
    if abs(new - record) <= NOISE * max(abs(new), abs(record)):
        return f"{name} {number(new)} in both"
    record_text, new_text = distinct_numbers(record, new)
    return f"{name} {record_text}, here {new_text}, {new - record:+.3g}"


def pareto_failure(verdict: ParetoVerdict) -> str:
    """Write the text of a failure: headline, line of the spec, and plot."""
    pareto = verdict.pareto
    head = f"{pareto.where}: pareto: {{x: {pareto.x}, y: {pareto.y}}}"
    plot = scatter_plot(pareto, verdict.others, verdict.point)
    return "\n".join([pareto_headline(verdict), head, "", *plot, *not_compared(verdict)])


def not_compared(verdict: ParetoVerdict) -> Iterator[str]:
    """List the newest records of other tokens or formulas, one of which could be better."""
    n_older = len(verdict.left_out) - _MOST_LEFT_OUT
    for line in verdict.left_out[-_MOST_LEFT_OUT:]:
        yield f"not compared: {line}"
    if n_older > 0:
        yield f"not compared: {n_older} older"


def scatter_plot(
    pareto: Pareto, points: Sequence[Point], new: Point | None = None
) -> Iterator[str]:
    """Draw records in two metrics, with a legend.

    A record is a letter. Capital letters, and the dots between them, are the Pareto frontier.

    Args:
        pareto: The metrics on the axes.
        points: The records.
        new: The new checkpoint; it is drawn as ``@`` over everything else.
    """
    all_points = [*points, *([new] if new else [])]
    if not all_points:
        return
    frontier = pareto.frontier(all_points)
    x_range, y_range = _range([p.x for p in all_points]), _range([p.y for p in all_points])
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]

    def put(x: float, y: float, letter: str) -> None:
        (x_min, x_max), (y_min, y_max) = x_range, y_range
        row = round((y_max - y) / (y_max - y_min) * (_HEIGHT - 1))
        canvas[row][round((x - x_min) / (x_max - x_min) * (_WIDTH - 1))] = letter

    for x, y in _stairs(pareto, frontier, x_range):
        put(x, y, "·")
    marked = [(_letter(i, capital=point in frontier), point) for i, point in enumerate(points)]
    for letter, point in reversed(marked):
        put(point.x, point.y, letter)
    if new is not None:
        put(new.x, new.y, _NEW)
        marked.insert(0, (_NEW, new))
    yield from _framed(pareto, canvas, x_range, y_range)
    yield from _legend(pareto, marked, frontier)


def _letter(index: int, *, capital: bool) -> str:
    letter = ascii_lowercase[index % len(ascii_lowercase)]
    return letter.upper() if capital else letter


def _stairs(
    pareto: Pareto, frontier: Sequence[Point], x_range: _Range
) -> Iterator[tuple[float, float]]:
    """Trace the frontier as stairs: from each point towards worse x, then to the next better y.

    Anything on the worse side of the stairs is dominated.
    """
    higher = METRICS[pareto.x].direction == "higher"
    ordered = sorted(frontier, key=lambda p: p.x, reverse=higher)
    last = x_range[0] if higher else x_range[1]
    for point, after in zip(ordered, [*ordered[1:], None], strict=True):
        x = after.x if after else last
        for i in range(_WIDTH * 4 + 1):  # more steps than characters leave no gap
            fraction = i / (_WIDTH * 4)
            yield point.x + (x - point.x) * fraction, point.y
            if after:
                yield x, point.y + (after.y - point.y) * fraction


def _range(values: Sequence[float]) -> _Range:
    """Return the range of an axis: the values and some room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _framed(
    pareto: Pareto, canvas: Sequence[Sequence[str]], x_range: _Range, y_range: _Range
) -> Iterator[str]:
    bottom, top = map(number, y_range)
    margin = max(len(top), len(bottom))
    yield f"  {pareto.y}{_unit(pareto.y)}"
    for row, letters in enumerate(canvas):
        label = top if row == 0 else bottom if row == _HEIGHT - 1 else ""
        yield f"  {label:>{margin}} │{''.join(letters)}".rstrip()
    yield f"  {'':{margin}} └{'─' * _WIDTH}"
    x_min, x_max = map(number, x_range)
    label = f"{pareto.x}{_unit(pareto.x)}"
    yield f"  {'':{margin}}  {x_min}{label:^{_WIDTH - len(x_min) - len(x_max)}}{x_max}"


def _legend(
    pareto: Pareto, marked: Sequence[tuple[str, Point]], frontier: Sequence[Point]
) -> Iterator[str]:
    rows = [
        (
            f"{letter} {point.name}",
            _at(pareto, point) + ("  on the frontier" if point in frontier else ""),
        )
        for letter, point in marked
    ]
    yield from table_lines(rows, indent="  ")


def _at(pareto: Pareto, point: Point) -> str:
    return f"{pareto.x} {number(point.x)}, {pareto.y} {number(point.y)}"


def _unit(name: str) -> str:
    return f" ({METRICS[name].unit})" if METRICS[name].unit else ""


def frontier_plots(records: Sequence[Recorded], pareto: Pareto) -> Iterator[str]:
    """Draw a plot for each group of records with the same spec, hook point, tokens and formulas.

    Args:
        records: The records, oldest first.
        pareto: The metrics on the axes.

    Raises:
        SetupError: No record has both metrics.
    """
    groups: dict[tuple[str, ...], list[Point]] = {}
    for recorded in records:
        x, y = (recorded.record.metrics.get(name) for name in (pareto.x, pareto.y))
        if x and y and x.value is not None and y.value is not None:
            versions = f"formula versions {x.formula_version} and {y.formula_version}"
            point = Point(recorded.display_name, x.value, y.value)
            record = recorded.record
            group = (recorded.spec, record.hooks, record.tokens_sha256, versions)
            groups.setdefault(group, []).append(point)
    if not groups:
        raise SetupError(f"no record has both {pareto.x} and {pareto.y}")
    for (spec, hook, tokens, versions), points in groups.items():
        yield f"{pareto.y} against {pareto.x}  {spec}"
        yield f"  {hook}, tokens {tokens[:8] or '?'}, {versions}"
        yield from scatter_plot(pareto, points)
        yield ""
