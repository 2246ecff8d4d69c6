"""Compare the thresholds of two versions of a spec: tightened, loosened, added, removed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from sae_guard.core.metrics import Side
from sae_guard.core.thresholds import OnUndecided, Threshold

Key = Literal["max", "min", "warn_max", "warn_min", "confidence", "on_undecided", "axes"]
Kind = Literal["tightened", "loosened", "added", "removed"]

_KEYS: tuple[tuple[Side, Key], ...] = (
    ("min", "min"), ("min", "warn_min"), ("max", "max"), ("max", "warn_max"),
)  # fmt: skip
"""Side of each bound, and its key."""


class Bounds(Protocol):
    """The bounds of a threshold, in a record or in a spec."""

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
    """The axes of a Pareto threshold, in a record or in a spec."""

    @property
    def x(self) -> str: ...
    @property
    def y(self) -> str: ...


@dataclass(frozen=True)
class ThresholdChange:
    """The change of one key of a threshold."""

    threshold: str
    """Name of the target: ``kl``, ``kl.p99@position=0..8``."""
    key: Key
    old: float | str | None
    """Old value; None where the key was added."""
    new: float | str | None
    """New value; None where the key was removed."""
    change: Kind
    looser: bool
    """True where a value passes that did not before; for a warn bound, passes without a warning."""
    share: bool = False
    """True for a bound on a change relative to the baseline's value."""


@dataclass(frozen=True)
class LoosenedThresholds:
    """The thresholds of a spec that are looser than at its last promoted record."""

    label: str
    """Name of the version that the record was promoted as."""
    record: str
    """Id of the record."""
    promoted: datetime
    by: str
    changes: tuple[ThresholdChange, ...]


def bounds_in_force(thresholds: Iterable[Threshold]) -> dict[str, Bounds]:
    """Return name of the target → threshold."""
    return {str(threshold.target): threshold for threshold in thresholds}


def threshold_changes(
    old: Mapping[str, Bounds], new: Mapping[str, Bounds]
) -> Iterator[ThresholdChange]:
    """Yield the change of every key of every threshold.

    Args:
        old: Target → bounds before.
        new: Target → bounds now.

    Yields:
        The changes, in the order of the old thresholds and then of the added ones.
    """
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before and after and (before.change or "") != (after.change or ""):
            # A relative change and one in the metric's unit cannot be compared.
            yield from _of_threshold(name, before, None)
            yield from _of_threshold(name, None, after)
        else:
            yield from _of_threshold(name, before, after)


def pareto_changes(old: Axes | None, new: Axes | None) -> Iterator[ThresholdChange]:
    """Yield the change of a Pareto threshold; other axes count as removed and added."""
    if old is not None and new is not None and {old.x, old.y} == {new.x, new.y}:
        return
    before, after = (f"{axes.x}, {axes.y}" if axes else None for axes in (old, new))
    if before is not None:
        yield ThresholdChange("pareto", "axes", before, None, "removed", looser=True)
    if after is not None:
        yield ThresholdChange("pareto", "axes", None, after, "added", looser=False)


def _of_threshold(name: str, old: Bounds | None, new: Bounds | None) -> Iterator[ThresholdChange]:
    share = any(bounds is not None and bounds.change == "share" for bounds in (old, new))
    for side, key in _KEYS:
        before, after = getattr(old, key, None), getattr(new, key, None)
        if before == after:
            continue
        looser = _reach(side, after) > _reach(side, before)
        change = _change(before, after, looser=looser)
        if key != side:
            # A warn bound that was replaced by a bound at the same place or tighter is not looser.
            looser = _quiet(side, new) > _quiet(side, old)
        yield ThresholdChange(name, key, before, after, change, looser, share)
    if old is not None and new is not None:
        yield from _of_intervals(name, old, new)


def _of_intervals(name: str, old: Bounds, new: Bounds) -> Iterator[ThresholdChange]:
    """Yield the changes of ``confidence`` and ``on_undecided``, which act together."""
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
    """Return how far values may go; a larger number allows more."""
    if bound is None:
        return math.inf
    return bound if side == "max" else -bound


def _quiet(side: Side, bounds: Bounds | None) -> float:
    """Return how far values may go without a warning."""
    ends = (getattr(bounds, side, None), getattr(bounds, f"warn_{side}", None))
    return min(_reach(side, end) for end in ends)


def _strictness(bounds: Bounds) -> float:
    """Return a number that is larger where fewer values pass.

    With a confidence a value passes only if its whole interval lies within the bounds. With
    ``on_undecided: warn`` it passes unless its whole interval lies past a bound.
    """
    confidence = bounds.confidence or 0.0
    return confidence if bounds.on_undecided == "fail" else -confidence
