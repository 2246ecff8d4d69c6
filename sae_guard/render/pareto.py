"""Points of two metrics → a headline, and a plot in lines of a terminal. Pure.

The points may be records: there is one plot for what is comparable.
"""

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
"""Of the plot, in letters."""
_NEW = "@"
_LEFT_OUT_SHOWN = 5
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
    others = f" and {len(better) - 1} more" if len(better) > 1 else ""
    x, y = _axis(pareto.x, record.x, point.x), _axis(pareto.y, record.y, point.y)
    return f"pareto: dominated in {pareto.x} and {pareto.y} by {record.name}{others} ({x}; {y})"


def _axis(name: str, record: float, here: float) -> str:
    """Write a metric of the record and of the new checkpoint, and by how much the latter differs.

    What differs by less than numeric noise counts as equal (`Pareto.dominates`).
    """
    if abs(here - record) <= NOISE * max(abs(here), abs(record)):
        return f"{name} {number(here)} in both"
    record_text, here_text = distinct_numbers(record, here)
    return f"{name} {record_text}, here {here_text}, {here - record:+.3g}"


def pareto_failure(verdict: ParetoVerdict) -> str:
    """The text of a failure: headline, where it is set, and the plot."""
    pareto = verdict.pareto
    head = f"{pareto.where}: pareto: {{x: {pareto.x}, y: {pareto.y}}}"
    plot = plotted(pareto, verdict.others, verdict.point)
    return "\n".join([pareto_headline(verdict), head, "", *plot, *not_compared(verdict)])


def not_compared(verdict: ParetoVerdict) -> Iterator[str]:
    """The newest records of other tokens or formulas, one of which could be the better one."""
    older = len(verdict.left_out) - _LEFT_OUT_SHOWN
    for line in verdict.left_out[-_LEFT_OUT_SHOWN:]:
        yield f"not compared: {line}"
    if older > 0:
        yield f"not compared: {older} older"


def plotted(pareto: Pareto, points: Sequence[Point], new: Point | None = None) -> Iterator[str]:
    """A plot of records, each a letter; capital ones and the dots between them are the frontier,
    and ``@`` is the new point, which is drawn over all."""
    every = [*points, *([new] if new else [])]
    if not every:
        return
    frontier = pareto.frontier(every)
    x_range, y_range = _range([p.x for p in every]), _range([p.y for p in every])
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]

    def put(x: float, y: float, letter: str) -> None:
        (left, right), (bottom, top) = x_range, y_range
        row = round((top - y) / (top - bottom) * (_HEIGHT - 1))
        canvas[row][round((x - left) / (right - left) * (_WIDTH - 1))] = letter

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
    """The edge of what is dominated: from each point towards worse x, then to the next better y."""
    higher = METRICS[pareto.x].direction == "higher"
    ordered = sorted(frontier, key=lambda p: p.x, reverse=higher)
    last = x_range[0] if higher else x_range[1]
    for point, after in zip(ordered, [*ordered[1:], None], strict=True):
        x = after.x if after else last
        for i in range(_WIDTH * 4 + 1):
            share = i / (_WIDTH * 4)
            yield point.x + (x - point.x) * share, point.y
            if after:
                yield x, point.y + (after.y - point.y) * share


def _range(values: Sequence[float]) -> _Range:
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
    left, right = map(number, x_range)
    middle = f"{pareto.x}{_unit(pareto.x)}"
    yield f"  {'':{margin}}  {left}{middle:^{_WIDTH - len(left) - len(right)}}{right}"


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


_Group = tuple[str, ...]


def frontiers(records: Sequence[Recorded], pareto: Pareto) -> Iterator[str]:
    """A plot of the records of each spec that are of the same hook point, tokens and formulas.

    Args:
        records: In the order of time.
        pareto: Of which two metrics.

    Raises:
        SetupError: No record has both.
    """
    groups: dict[_Group, list[Point]] = {}
    for each in records:
        x, y = (each.record.metrics.get(name) for name in (pareto.x, pareto.y))
        if x and y and x.value is not None and y.value is not None:
            versions = f"formula versions {x.formula_version} and {y.formula_version}"
            point = Point(each.display_name, x.value, y.value)
            groups.setdefault((*_place(each), versions), []).append(point)
    if not groups:
        raise SetupError(f"no record has both {pareto.x} and {pareto.y}")
    for (spec, hook, tokens, versions), points in groups.items():
        yield f"{pareto.y} against {pareto.x}  {spec}"
        yield f"  {hook}, tokens {tokens[:8] or '?'}, {versions}"
        yield from plotted(pareto, points)
        yield ""


def _place(recorded: Recorded) -> tuple[str, str, str]:
    record = recorded.record
    hook = f"{record.hook} → {record.hook_out}" if record.hook_out else record.hook
    return recorded.spec, hook, record.provenance["corpus"].get("sha256") or ""
