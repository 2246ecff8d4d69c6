"""Judge checkpoints by two metrics at once: the Pareto frontier.

A point dominates another if it is at least as good in both metrics and better in one (Pareto). L0
and KL are the usual pair: a lower KL bought with more active latents is no improvement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sae_guard.core.metrics import METRICS, metric
from sae_guard.core.statistics import NOISE
from sae_guard.errors import UndefinedMetricError, allowed

_LESS_IS_SPARSER = ("l0", "l1")
"""Metrics that thresholds bound on both sides, but of which less is better, all else being equal.
"""

AXES = tuple(
    name
    for name, definition in METRICS.items()
    if definition.direction != "window" or name in _LESS_IS_SPARSER
)
"""Metrics with a better direction, which can be an axis."""


@dataclass(frozen=True)
class Pareto:
    """A threshold on two metrics: no earlier record of the spec may dominate the checkpoint."""

    x: str
    y: str
    file: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """``file:line`` of the threshold."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def problem(self) -> str | None:
        """Return why these cannot be the axes; None if they can."""
        for axis, name in (("x", self.x), ("y", self.y)):
            if name not in AXES:
                return f"{axis} is {name!r}; {allowed(name, AXES, limit=len(AXES))}"
        return f"x and y are both {self.x}" if self.x == self.y else None

    def dominates(self, one: Point, other: Point) -> bool:
        """Return whether ``one`` is at least as good in both metrics and better in one.

        Differences within numeric noise, as between devices and batch sizes, count as equal.
        """
        x, y = (
            _advantage(name, a, b)
            for name, a, b in ((self.x, one.x, other.x), (self.y, one.y, other.y))
        )
        return min(x, y) >= 0 and max(x, y) > 0

    def frontier(self, points: Iterable[Point]) -> list[Point]:
        """Return the points that no other point dominates, in the order of the input."""
        every = list(points)
        return [one for one in every if not any(self.dominates(other, one) for other in every)]


@dataclass(frozen=True)
class Point:
    """The two metrics of one checkpoint; raises `UndefinedMetricError` where one is not finite."""

    name: str
    x: float
    y: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x) and math.isfinite(self.y)):
            raise UndefinedMetricError(
                f"{self.name} is at {self.x}, {self.y}: both values have to be finite"
            )


@dataclass(frozen=True)
class ParetoVerdict:
    """The verdict on a point: the records that it was compared with and those that dominate it."""

    pareto: Pareto
    point: Point
    others: tuple[Point, ...]
    """Records that the point was compared with."""
    left_out: tuple[str, ...] = ()
    """Records of the spec that are not comparable, each with the reason."""

    @property
    def dominated_by(self) -> list[Point]:
        """Records that dominate the point."""
        return [record for record in self.others if self.pareto.dominates(record, self.point)]

    @property
    def status(self) -> Literal["pass", "fail"]:
        """Status of the threshold."""
        return "pass" if self.passes else "fail"

    @property
    def passes(self) -> bool:
        """True where there are records and none dominates the point."""
        return bool(self.others) and not self.dominated_by


def compared(
    pareto: Pareto, point: Point, records: Sequence[Point], left_out: Sequence[str] = ()
) -> ParetoVerdict:
    """Return the verdict on a point compared with those of earlier records."""
    return ParetoVerdict(pareto, point, tuple(records), tuple(left_out))


def _advantage(name: str, one: float, other: float) -> int:
    """Return 1 where ``one`` is better, −1 where it is worse, 0 within numeric noise."""
    if abs(one - other) <= NOISE * max(abs(one), abs(other)):
        return 0
    higher = metric(name).direction == "higher"
    return 1 if (one > other) == higher else -1
