"""Changes of the thresholds in records: from run to run, and since a promotion. No files here."""

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
from sae_guard.history.promotions import releases_in_force
from sae_guard.history.record import Promotion, Record, Recorded


def recorded_bounds(record: Record) -> dict[str, Bounds]:
    """Map the name of each threshold of a record to it."""
    return {row.metric: row for row in record.thresholds}


@dataclass(frozen=True)
class Step:
    """A run whose thresholds differ from those of the run before it."""

    recorded: Recorded
    """The first record of the run at the spec."""
    changes: tuple[ThresholdChange, ...]


@dataclass(frozen=True)
class Track:
    """The thresholds of a spec over time."""

    start: Recorded
    """Record with the thresholds before the first step."""
    started: bool
    """True if that record is of the first run at the spec."""
    steps: tuple[Step, ...]
    """Runs that changed thresholds, in the order of time."""
    runs: int
    """Number of runs that were examined, the very first included."""


def track_thresholds(records: Sequence[Recorded], ids: Container[str]) -> list[Track]:
    """Follow the thresholds of each spec from run to run.

    All records of one run at one spec count once: they have the same thresholds. By records, two
    runs from different branches that record at the same time would seem to alternate.

    Args:
        records: All records in the order of time: each run is compared with the one before it.
        ids: Ids of the records whose runs to examine.
    """
    runs: dict[str, dict[str, list[Recorded]]] = {}
    for recorded in records:
        runs.setdefault(recorded.spec, {}).setdefault(recorded.record.run, []).append(recorded)
    tracks = [_track(list(runs_of_spec.values()), ids) for runs_of_spec in runs.values()]
    return [track for track in tracks if track is not None]


def last_promotion(promotions: Iterable[Promotion], spec: str) -> Promotion | None:
    """Return the last promotion at a spec that is in force, whatever its label; None without any.

    Promotions of a label that was retracted since are passed over.

    Args:
        promotions: Promotions in the order of time.
        spec: ``file::name``.
    """
    promotions = list(promotions)
    in_force = {
        id(promoted.promotion)
        for release in releases_in_force(promotions).values()
        for promoted in release.records
        if promoted.record.spec == spec
    }
    return next((last for last in reversed(promotions) if id(last) in in_force), None)


def loosened(
    promotion: Promotion,
    recorded: Recorded,
    thresholds: Iterable[Threshold],
    pareto: Pareto | None = None,
) -> LoosenedThresholds | None:
    """Return the thresholds that are looser than at a promotion; None if none is.

    Args:
        promotion: Promotion that names the record.
        recorded: Record with the thresholds of then.
        thresholds: Thresholds in force now.
        pareto: Pareto threshold in force now.
    """
    changes = (
        *threshold_changes(recorded_bounds(recorded.record), bounds_in_force(thresholds)),
        *pareto_changes(recorded.record.pareto, pareto),
    )
    looser = tuple(change for change in changes if change.looser)
    if not looser:
        return None
    return LoosenedThresholds(promotion.label, recorded.id, promotion.created, promotion.by, looser)


def _track(runs: Sequence[Sequence[Recorded]], ids: Container[str]) -> Track | None:
    examined = [
        index for index, run in enumerate(runs) if any(recorded.id in ids for recorded in run)
    ]
    if not examined:
        return None
    first_records = [run[0] for run in runs]
    steps = [
        Step(
            first_records[index],
            tuple(_changes(first_records[index - 1].record, first_records[index].record)),
        )
        for index in examined
        if index
    ]
    return Track(
        first_records[max(examined[0] - 1, 0)],
        examined[0] <= 1,  # the record before run 1 is that of run 0, the first
        tuple(step for step in steps if step.changes),
        len(examined),
    )


def _changes(old: Record, new: Record) -> Iterator[ThresholdChange]:
    yield from threshold_changes(recorded_bounds(old), recorded_bounds(new))
    yield from pareto_changes(old.pareto, new.pareto)
