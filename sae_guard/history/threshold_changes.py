"""How the thresholds of records went: from run to run, and since a promotion. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sae_guard.core.pareto import Pareto
from sae_guard.core.threshold_changes import (
    Bounds,
    LoosenedThresholds,
    ThresholdChange,
    bounds_in_force,
    pareto_changes,
    threshold_changes,
)
from sae_guard.core.thresholds import Threshold
from sae_guard.history.record import Promotion, Record, Recorded


def recorded_bounds(record: Record) -> dict[str, Bounds]:
    """Name → threshold of a record."""
    return {row.metric: row for row in record.thresholds}


@dataclass(frozen=True)
class Step:
    """A run that found other thresholds than the one before it."""

    recorded: Recorded
    """The first record of the run at the spec."""
    changes: tuple[ThresholdChange, ...]


@dataclass(frozen=True)
class Track:
    """How the thresholds of a spec went."""

    start: Recorded
    """A record of what they were before the steps."""
    started: bool
    """Whether it is of the first run of all."""
    steps: tuple[Step, ...]
    runs: int
    """How many are looked at, the first of all included."""


def tracked(records: Sequence[Recorded], shown: Container[str]) -> list[Track]:
    """What became of the thresholds of each spec, from run to run.

    The records of a run at a spec are one: they have the same thresholds, and runs that record at
    the same time, from branches that differ, would else seem to take turns.

    Args:
        records: All there are, in the order of time: each run is compared with the one before it.
        shown: Ids of records whose runs are looked at.
    """
    runs: dict[str, dict[str, list[Recorded]]] = {}
    for each in records:
        runs.setdefault(each.spec, {}).setdefault(each.record.run, []).append(each)
    found = [_track(list(of_spec.values()), shown) for of_spec in runs.values()]
    return [track for track in found if track is not None]


def last_promotion(promotions: Iterable[Promotion], spec: str) -> Promotion | None:
    """The last one of a spec, whatever its label.

    Args:
        promotions: In the order of time.
        spec: ``file::name``.
    """
    own = [each for each in promotions if each.spec == spec]
    return own[-1] if own else None


def loosened(
    promotion: Promotion,
    record: Record,
    thresholds: Iterable[Threshold],
    pareto: Pareto | None = None,
) -> LoosenedThresholds | None:
    """Find what is looser than it was; None where nothing is.

    Args:
        promotion: Of the record.
        record: With the thresholds as they were.
        thresholds: Those in force.
        pareto: That in force.
    """
    changes = (
        *threshold_changes(recorded_bounds(record), bounds_in_force(thresholds)),
        *pareto_changes(record.pareto, pareto),
    )
    looser = tuple(change for change in changes if change.looser)
    if not looser:
        return None
    label, record_id = promotion.label, promotion.record
    return LoosenedThresholds(label, record_id, promotion.created, promotion.by, looser)


def _track(runs: Sequence[Sequence[Recorded]], shown: Container[str]) -> Track | None:
    chosen = [at for at, run in enumerate(runs) if any(each.id in shown for each in run)]
    if not chosen:
        return None
    firsts = [run[0] for run in runs]
    steps = [
        Step(firsts[at], tuple(_between(firsts[at - 1].record, firsts[at].record)))
        for at in chosen
        if at
    ]
    return Track(
        firsts[max(chosen[0] - 1, 0)],
        chosen[0] <= 1,
        tuple(step for step in steps if step.changes),
        len(chosen),
    )


def _between(old: Record, new: Record) -> Iterator[ThresholdChange]:
    yield from threshold_changes(recorded_bounds(old), recorded_bounds(new))
    yield from pareto_changes(old.pareto, new.pareto)
