"""What became of thresholds between two versions of a spec: tightened, loosened, added, removed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from sae_guard.core.metrics import Side
from sae_guard.core.thresholds import OnUndecided, Threshold

Key = Literal["max", "min", "warn_max", "warn_min", "confidence", "on_undecided", "axes"]
Kind = Literal["tightened", "loosened", "added", "removed"]

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
class ThresholdChange:
    """What became of one key of a threshold."""

    threshold: str
    """As node ids have it: ``kl``, ``kl.p99@position=0..8``."""
    key: Key
    old: float | str | None
    """None where it was added."""
    new: float | str | None
    """None where it was removed."""
    change: Kind
    looser: bool
    """Whether something passes that did not; of a warn bound, without a warning."""
    share: bool = False
    """Whether it is of a bound on a change, as a share of what the metric was."""


@dataclass(frozen=True)
class LoosenedThresholds:
    """Thresholds of a spec that are looser than when a record of it was last promoted."""

    label: str
    """What the record was promoted as."""
    record: str
    """Its id."""
    promoted: datetime
    by: str
    changes: tuple[ThresholdChange, ...]


def bounds_in_force(thresholds: Iterable[Threshold]) -> dict[str, Bounds]:
    """Map the name of each threshold of a spec to it."""
    return {str(threshold.target): threshold for threshold in thresholds}


def threshold_changes(
    old: Mapping[str, Bounds], new: Mapping[str, Bounds]
) -> Iterator[ThresholdChange]:
    """Compare each key of each threshold, in the order of the old ones and then the new."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before and after and (before.change or "") != (after.change or ""):
            # A share of what the metric was and a difference in its unit do not compare.
            yield from _of_threshold(name, before, None)
            yield from _of_threshold(name, None, after)
        else:
            yield from _of_threshold(name, before, after)


def pareto_changes(old: Axes | None, new: Axes | None) -> Iterator[ThresholdChange]:
    """Compare two Pareto thresholds: one of other axes is another."""
    if old is not None and new is not None and {old.x, old.y} == {new.x, new.y}:
        return
    before, after = (f"{each.x}, {each.y}" if each else None for each in (old, new))
    if before is not None:
        yield ThresholdChange("pareto", "axes", before, None, "removed", looser=True)
    if after is not None:
        yield ThresholdChange("pareto", "axes", None, after, "added", looser=False)


def _of_threshold(name: str, old: Bounds | None, new: Bounds | None) -> Iterator[ThresholdChange]:
    share = any(each is not None and each.change == "share" for each in (old, new))
    for side in _SIDES:
        for change in (*_of_bound(name, side, old, new), *_of_warn_bound(name, side, old, new)):
            yield replace(change, share=share)
    if old is not None and new is not None:
        yield from _of_intervals(name, old, new)


def _of_bound(
    name: str, side: Side, old: Bounds | None, new: Bounds | None
) -> Iterator[ThresholdChange]:
    before, after = getattr(old, side, None), getattr(new, side, None)
    if before != after:
        looser = _reach(side, after) > _reach(side, before)
        yield ThresholdChange(
            name, side, before, after, _change(before, after, looser=looser), looser
        )


def _of_warn_bound(
    name: str, side: Side, old: Bounds | None, new: Bounds | None
) -> Iterator[ThresholdChange]:
    key: Key = "warn_max" if side == "max" else "warn_min"
    before, after = getattr(old, key, None), getattr(new, key, None)
    if before != after:
        change = _change(before, after, looser=_reach(side, after) > _reach(side, before))
        # A warning that gave way to a bound at its place, or inside of it, is no loss.
        yield ThresholdChange(
            name, key, before, after, change, _quiet(side, new) > _quiet(side, old)
        )


def _of_intervals(name: str, old: Bounds, new: Bounds) -> Iterator[ThresholdChange]:
    """Both keys say together which values pass: see `_strictness`."""
    looser = _strictness(new) < _strictness(old)
    change: Kind = "loosened" if looser else "tightened"
    keys: tuple[Key, ...] = ("confidence", "on_undecided")
    for key in keys if _strictness(new) != _strictness(old) else ():
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield ThresholdChange(name, key, before, after, change, looser)


def _change(old: float | None, new: float | None, *, looser: bool) -> Kind:
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
