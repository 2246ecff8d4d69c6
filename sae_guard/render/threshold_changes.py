"""Thresholds from version to version, and loosened thresholds → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.threshold_changes import LoosenedThresholds, ThresholdChange
from sae_guard.history.record import GitRow, ThresholdRow
from sae_guard.history.threshold_changes import Step, Track
from sae_guard.tables import table_lines

_TITLES = ("date", "name", "threshold", "old", "new", "change", "commit", "by")
_WIDTH = 100
"""Width at which lines are wrapped, in characters."""


def track_lines(histories: Sequence[Track]) -> Iterator[str]:
    """Write a block for each spec: its first thresholds, then a line for each later change."""
    for track in histories:
        yield track.start.spec
        yield from _start(track)
        rows = [_row(step, change) for step in track.steps for change in step.changes]
        if rows:
            yield from table_lines([_TITLES, *rows], right=(3, 4), indent="  ")
        else:
            yield f"  none moved in {track.runs} {'run' if track.runs == 1 else 'runs'}"
        yield ""


def loosened_line(spec: str, loosened: LoosenedThresholds) -> str:
    """Write which thresholds of a spec are looser than at its last promotion."""
    changes = "; ".join(map(_in_words, loosened.changes))
    return (
        f"LOOSER than at {loosened.label} (promoted {loosened.promoted.astimezone():%Y-%m-%d} by "
        f"{_on_a_line(loosened.by)}): {spec} {changes}"
    )


def _start(track: Track) -> Iterator[str]:
    """Yield lines with the thresholds before their first change, wrapped between thresholds."""
    record = track.start.record
    word = "started as" if track.started else "as of"
    date = f"{record.created.astimezone():%Y-%m-%d}"
    line = f"  {word} {record.name} ({date}, {_commit(record.git)}, {_who(record.by)}):"
    texts = [_bounds(row) for row in record.thresholds]
    texts += [f"pareto {record.pareto.x}, {record.pareto.y}"] if record.pareto else []
    texts = texts or ["none"]
    for text in (*(f"{text}," for text in texts[:-1]), texts[-1]):
        if len(line) + 1 + len(text) > _WIDTH:
            yield line
            line = "   "
        line += f" {text}"
    yield line


def _bounds(row: ThresholdRow) -> str:
    """Write the bounds of a threshold, such as ``kl <= 0.25 (warn 0.23)``."""
    share = row.change == "share"
    has_both = row.min is not None and row.max is not None
    details = [
        f"warn {f'{side} ' if has_both else ''}{_value(warn, share=share)}"
        for side, warn in (("min", row.warn_min), ("max", row.warn_max))
        if warn is not None
    ]
    if row.confidence is not None:
        details.append(f"confidence {row.confidence:.12g}")
        details += ["on_undecided warn"] if row.on_undecided == "warn" else []
    low, high = (_value(end, share=share) for end in (row.min, row.max))
    bounds = f"{low}..{high}" if has_both else f">= {low}" if row.max is None else f"<= {high}"
    text = f"{_on_a_line(row.metric)} {bounds}"
    return f"{text} ({', '.join(details)})" if details else text


def _row(step: Step, change: ThresholdChange) -> tuple[str, ...]:
    record = step.recorded.record
    return (
        f"{record.created.astimezone():%Y-%m-%d}", _cut(record.name, 16),
        _bound_name(change), *_ends(change), change.change,
        _commit(record.git), _who(record.by),
    )  # fmt: skip


def _in_words(change: ThresholdChange) -> str:
    """Write one change, such as ``kl max 0.1 -> 0.2``."""
    old, new = _ends(change)
    if change.old is None:
        return f"{_bound_name(change)} {new} added"
    if change.new is None:
        return f"{_bound_name(change)} {old} removed"
    return f"{_bound_name(change)} {old} -> {new}"


def _ends(change: ThresholdChange) -> tuple[str, str]:
    return _value(change.old, share=change.share), _value(change.new, share=change.share)


def _bound_name(change: ThresholdChange) -> str:
    return f"{_on_a_line(change.threshold)} {change.key.replace('warn_', 'warn ')}"


def _value(value: float | str | None, *, share: bool = False) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{100 * value:.12g}%" if share else f"{value:.12g}"


def _commit(git: GitRow | None) -> str:
    return "-" if git is None else f"{git.commit[:8]}{'+' if git.dirty else ''}"


def _who(by: str) -> str:
    """Return the name of a git user without the address; the address if there is no name."""
    return _cut(_on_a_line(by).partition(" <")[0], 16)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _on_a_line(text: str) -> str:
    """Replace what is not printable, such as line breaks in names."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
