"""Decisions on the bounds of a spec → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.tightening import Decision
from sae_guard.render.numbers import number
from sae_guard.tables import table_lines

_TITLES = ("bound", "checkpoint", "measured", "old", "new")


def decision_table(decisions: Sequence[Decision]) -> Iterator[str]:
    """Write a table of the decisions.

    If they follow from several checkpoints, a column has the one that each bound follows from.
    """
    if not decisions:
        return
    rows = [_TITLES, *map(_row, decisions)]
    if len({decision.measured.checkpoint for decision in decisions if decision.measured}) > 1:
        yield from table_lines(rows, right=(2, 3), indent="  ")
    else:
        without = [(bound, *numbers) for bound, _, *numbers in rows]
        yield from table_lines(without, right=(1, 2), indent="  ")


def decision_counts(decisions: Sequence[Decision]) -> str:
    """Count the bounds that change, in words."""
    new_bounds = [decision for decision in decisions if decision.new is not None]
    n_loosened = sum(decision.loosens for decision in new_bounds)
    counts = (
        (len(new_bounds) - n_loosened, "tightened"),
        (n_loosened, "loosened"),
    )
    texts = [f"{n} {'bound' if n == 1 else 'bounds'} {verb}" for n, verb in counts if n]
    return ", ".join(texts) or "no bound changes"


def _row(decision: Decision) -> tuple[str, ...]:
    kind = "warn " if decision.warn else ""
    source = decision.measured
    return (
        f"{decision.threshold.target} {kind}{decision.side}",
        source.checkpoint if source else "",
        number(source.value, beside=decision.old) if source else "",
        f"{decision.old:.12g}",
        f"kept: {decision.kept}" if decision.new is None else f"{decision.new:f}",
    )
