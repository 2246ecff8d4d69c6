"""When thresholds were tightened, loosened, added or removed. Pure.

Thresholds of a record are compared with later ones: from run to run, and since a promotion.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from sae_guard.core.metrics import Side
from sae_guard.core.pareto import Pareto
from sae_guard.core.thresholds import OnUndecided, Threshold
from sae_guard.history.record import Promotion, Record, Recorded

Key = Literal["max", "min", "warn_max", "warn_min", "confidence", "on_undecided", "axes"]
Change = Literal["tightened", "loosened", "added", "removed"]

_SIDES: tuple[Side, ...] = ("min", "max")


class Bounds(Protocol):
    """A threshold of a record, or of a spec."""

    @property
    def max(self) -> float | None: ...
    @property
    def min(self) -> float | None: ...
    @property
    def warn_max(self) -> float | None: ...
    @property
    def warn_min(self) -> float | None: ...
    @property
    def confidence(self) -> float | None: ...
    @property
    def on_undecided(self) -> OnUndecided: ...
    @property
    def change(self) -> str | None: ...


class Axes(Protocol):
    """Of a Pareto threshold of a record, or of a spec."""

    @property
    def x(self) -> str: ...
    @property
    def y(self) -> str: ...


@dataclass(frozen=True)
class Move:
    """What became of one key of a threshold."""

    threshold: str
    """As node ids have it: ``kl``, ``kl.p99@position=0..8``."""
    key: Key
    old: float | str | None
    """None where it was added."""
    new: float | str | None
    """None where it was removed."""
    change: Change
    looser: bool
    """Whether something passes that did not; of a warn bound, without a warning."""
    share: bool = False
    """Whether it is of a bound on a change, as a share of what the metric was."""


def recorded_bounds(record: Record) -> dict[str, Bounds]:
    """Name → threshold of a record."""
    return {row.metric: row for row in record.thresholds}


def bounds_in_force(thresholds: Iterable[Threshold]) -> dict[str, Bounds]:
    """Name → threshold of a spec."""
    return {str(threshold.target): threshold for threshold in thresholds}


def moves(old: Mapping[str, Bounds], new: Mapping[str, Bounds]) -> Iterator[Move]:
    """What became of each key of each threshold, in the order of the old ones and then the new."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before and after and (before.change or "") != (after.change or ""):
            # A share of what the metric was and a difference in its unit do not compare.
            yield from _of_threshold(name, before, None)
            yield from _of_threshold(name, None, after)
        else:
            yield from _of_threshold(name, before, after)


def pareto_moves(old: Axes | None, new: Axes | None) -> Iterator[Move]:
    """What became of a Pareto threshold: one of other axes is another."""
    if old is not None and new is not None and {old.x, old.y} == {new.x, new.y}:
        return
    before, after = (f"{each.x}, {each.y}" if each else None for each in (old, new))
    if before is not None:
        yield Move("pareto", "axes", before, None, "removed", looser=True)
    if after is not None:
        yield Move("pareto", "axes", None, after, "added", looser=False)


def _of_threshold(name: str, old: Bounds | None, new: Bounds | None) -> Iterator[Move]:
    share = any(each is not None and each.change == "share" for each in (old, new))
    for side in _SIDES:
        for move in (*_of_bound(name, side, old, new), *_of_warn_bound(name, side, old, new)):
            yield replace(move, share=share)
    if old is not None and new is not None:
        yield from _of_intervals(name, old, new)


def _of_bound(name: str, side: Side, old: Bounds | None, new: Bounds | None) -> Iterator[Move]:
    before, after = getattr(old, side, None), getattr(new, side, None)
    if before != after:
        looser = _reach(side, after) > _reach(side, before)
        yield Move(name, side, before, after, _change(before, after, looser=looser), looser)


def _of_warn_bound(name: str, side: Side, old: Bounds | None, new: Bounds | None) -> Iterator[Move]:
    key: Key = "warn_max" if side == "max" else "warn_min"
    before, after = getattr(old, key, None), getattr(new, key, None)
    if before != after:
        change = _change(before, after, looser=_reach(side, after) > _reach(side, before))
        # A warning that gave way to a bound at its place, or inside of it, is no loss.
        yield Move(name, key, before, after, change, _quiet(side, new) > _quiet(side, old))


def _of_intervals(name: str, old: Bounds, new: Bounds) -> Iterator[Move]:
    """Both keys say together which values pass: see `_strictness`."""
    looser = _strictness(new) < _strictness(old)
    change: Change = "loosened" if looser else "tightened"
    keys: tuple[Key, ...] = ("confidence", "on_undecided")
    for key in keys if _strictness(new) != _strictness(old) else ():
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield Move(name, key, before, after, change, looser)


def _change(old: float | None, new: float | None, *, looser: bool) -> Change:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    return "loosened" if looser else "tightened"


def _reach(side: Side, bound: float | None) -> float:
    """How far values may go: more where it allows more."""
    if bound is None:
        return math.inf
    return bound if side == "max" else -bound


def _quiet(side: Side, bounds: Bounds | None) -> float:
    """How far they may go without a warning."""
    ends = (getattr(bounds, side, None), getattr(bounds, f"warn_{side}", None))
    return min(_reach(side, end) for end in ends)


def _strictness(bounds: Bounds) -> float:
    """More where fewer values pass: with a confidence only those pass whose interval is clear of
    the bound; but all whose interval is not beyond it, where ``on_undecided`` lets them through."""
    confidence = bounds.confidence or 0.0
    return confidence if bounds.on_undecided == "fail" else -confidence


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
