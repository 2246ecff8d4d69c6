"""What becomes of bounds → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.tightening import Decision
from sae_guard.render.numbers import number

_TITLES = ("bound", "checkpoint", "measured", "old", "new")


def changes(decisions: Sequence[Decision]) -> Iterator[str]:
    """A table of them; the checkpoint that a bound hangs on where there are several."""
    if not decisions:
        return
    rows = [_row(decision) for decision in decisions]
    several = len({decision.measured.checkpoint for decision in decisions if decision.measured}) > 1
    columns = [0, *([1] if several else []), 2, 3, 4]
    widths = [max(len(row[at]) for row in [_TITLES, *rows]) for at in range(len(_TITLES))]
    for row in [_TITLES, *rows]:
        cells = [f"{row[at]:{'>' if at in (2, 3) else '<'}{widths[at]}}" for at in columns]
        yield f"  {'  '.join(cells)}".rstrip()


def count(decisions: Sequence[Decision]) -> str:
    """How many change, in words."""
    moved = [decision for decision in decisions if decision.new is not None]
    loosened = sum(decision.loosens for decision in moved)
    told = [
        f"{n} {'bound' if n == 1 else 'bounds'} {what}"
        for n, what in ((len(moved) - loosened, "tightened"), (loosened, "loosened"))
        if n
    ]
    return ", ".join(told) or "no bound changes"


def _row(decision: Decision) -> tuple[str, ...]:
    kind = "warn " if decision.warn else ""
    by = decision.measured
    return (
        f"{decision.threshold.target} {kind}{decision.side}",
        by.checkpoint if by else "",
        number(by.value, beside=decision.old) if by else "",
        f"{decision.old:.12g}",
        f"kept: {decision.kept}" if decision.new is None else f"{decision.new:f}",
    )
