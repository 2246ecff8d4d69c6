"""How thresholds went, and what of them is looser than it was → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sae_guard.history.record import GitRow, ThresholdRow
from sae_guard.history.tracking import Looser, Move, Step, Track

_TITLES = ("date", "name", "threshold", "old", "new", "change", "commit", "by")
_WIDTH = 100
"""Of lines that are wrapped."""


def tracks(found: Sequence[Track]) -> Iterator[str]:
    """A block for each spec: what its thresholds started as, and a line for each that moved."""
    for track in found:
        yield track.start.spec
        yield from _start(track)
        rows = [_row(step, move) for step in track.steps for move in step.moves]
        if rows:
            yield from _table([_TITLES, *rows])
        else:
            yield f"  none moved in {track.runs} {'run' if track.runs == 1 else 'runs'}"
        yield ""


def looser_line(found: Looser) -> str:
    """What of a spec is looser than at its last promotion."""
    promotion = found.promotion
    moved = "; ".join(map(_moved, found.moves))
    return (
        f"LOOSER than at {promotion.label} (promoted {promotion.created.astimezone():%Y-%m-%d} by "
        f"{promotion.by}): {found.spec} {moved}"
    )


def looser_row(found: Looser) -> dict[str, Any]:
    """The same for JSON."""
    promotion = found.promotion
    return {
        "spec": found.spec,
        "label": promotion.label,
        "record": promotion.record,
        "promoted": promotion.created.isoformat(),
        "by": promotion.by,
        "moves": [
            {key: value for key, value in asdict(move).items() if key != "looser"}
            for move in found.moves
        ],
    }


def _start(track: Track) -> Iterator[str]:
    """The thresholds of the first record, wrapped between them."""
    record = track.start.record
    word = "started as" if track.started else "before these"
    date = f"{record.created.astimezone():%Y-%m-%d}"
    line = f"  {word} {record.name} ({date}, {_commit(record.git)}, {_who(record.by)}):"
    *rows, last = record.thresholds
    for text in (*(f"{_bounds(row)}," for row in rows), _bounds(last)):
        if len(line) + 1 + len(text) > _WIDTH:
            yield line
            line = "   "
        line += f" {text}"
    yield line


def _bounds(row: ThresholdRow) -> str:
    """Such as ``kl <= 0.25 (warn 0.23)``."""
    shown = f"{row.metric} {_between(row.min, row.max)}"
    warned = [f"{end:.12g}" for end in (row.warn_min, row.warn_max) if end is not None]
    more = [f"warn {'..'.join(warned)}"] if warned else []
    if row.confidence is not None:
        more.append(f"confidence {row.confidence:.12g}")
        more += ["on_undecided warn"] if row.on_undecided == "warn" else []
    return f"{shown} ({', '.join(more)})" if more else shown


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:.12g}..{high:.12g}"
    return f"<= {high:.12g}" if low is None else f">= {low:.12g}"


def _row(step: Step, move: Move) -> tuple[str, ...]:
    record = step.recorded.record
    return (
        f"{record.created.astimezone():%Y-%m-%d}", _cut(record.name, 16),
        _cut(_named(move), 32), _value(move.old), _value(move.new), move.change,
        _commit(record.git), _cut(_who(record.by), 16),
    )  # fmt: skip


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if at in (3, 4) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _moved(move: Move) -> str:
    if move.old is None:
        return f"{_named(move)} {_value(move.new)} added"
    if move.new is None:
        return f"{_named(move)} {_value(move.old)} removed"
    return f"{_named(move)} {_value(move.old)} -> {_value(move.new)}"


def _named(move: Move) -> str:
    return f"{move.threshold} {move.key.replace('warn_', 'warn ')}"


def _value(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.12g}"


def _commit(git: GitRow | None) -> str:
    return "-" if git is None else f"{git.commit[:8]}{'+' if git.dirty else ''}"


def _who(by: str) -> str:
    """Without the address, where there is a name."""
    return by.partition(" <")[0]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"…{text[1 - limit :]}"
