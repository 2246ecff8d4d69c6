"""What becomes of bounds → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.tightening import Decision
from sae_guard.render.numbers import number
from sae_guard.tables import table_lines

_TITLES = ("bound", "checkpoint", "measured", "old", "new")


def changes(decisions: Sequence[Decision]) -> Iterator[str]:
    """A table of them; the checkpoint that a bound hangs on where there are several."""
    if not decisions:
        return
    rows = [_TITLES, *map(_row, decisions)]
    if len({decision.measured.checkpoint for decision in decisions if decision.measured}) > 1:
        yield from table_lines(rows, right=(2, 3), indent="  ")
    else:
        without = [(bound, *numbers) for bound, _, *numbers in rows]
        yield from table_lines(without, right=(1, 2), indent="  ")


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
