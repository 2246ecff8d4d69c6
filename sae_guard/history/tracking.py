"""When thresholds were tightened or loosened: from run to run, and since a promotion. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sae_guard.core.pareto import Pareto
from sae_guard.core.thresholds import Threshold
from sae_guard.history.record import Promotion, Record, Recorded
from sae_guard.history.threshold_changes import (
    Move,
    bounds_in_force,
    moves,
    pareto_moves,
    recorded_bounds,
)


@dataclass(frozen=True)
class Step:
    """A run that found other thresholds than the one before it."""

    recorded: Recorded
    """The first record of the run at the spec."""
    moves: tuple[Move, ...]


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


@dataclass(frozen=True)
class Looser:
    """What of a spec is looser than when a record of it was last promoted."""

    spec: str
    """``file::name``."""
    promotion: Promotion
    moves: tuple[Move, ...]


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


def looser(
    promotion: Promotion,
    record: Record,
    thresholds: Iterable[Threshold],
    pareto: Pareto | None = None,
) -> Looser | None:
    """What is looser than it was; None where nothing is.

    Args:
        promotion: Of the record.
        record: With the thresholds as they were.
        thresholds: Those in force.
        pareto: That in force.
    """
    bounds = moves(recorded_bounds(record), bounds_in_force(thresholds))
    found = (*bounds, *pareto_moves(record.pareto, pareto))
    loosened = tuple(move for move in found if move.looser)
    return Looser(promotion.spec, promotion, loosened) if loosened else None


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
        tuple(step for step in steps if step.moves),
        len(chosen),
    )


def _between(old: Record, new: Record) -> Iterator[Move]:
    yield from moves(recorded_bounds(old), recorded_bounds(new))
    yield from pareto_moves(old.pareto, new.pareto)
