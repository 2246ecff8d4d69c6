"""Two metrics against each other: which points no other point is better than in both.

A point dominates another if it is at least as good in both metrics and better in one (Pareto). A
lower KL bought with more latents is no improvement: L0 and KL are the usual pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sae_guard.core.metrics import METRICS, metric
from sae_guard.core.statistics import NOISE
from sae_guard.errors import UndefinedMetricError, allowed

_LESS_IS_SPARSER = ("l0", "l1")
"""Metrics that thresholds hold in a window, of which less is better all else being equal."""

AXES = tuple(
    name for name, each in METRICS.items() if each.direction != "window" or name in _LESS_IS_SPARSER
)
"""Metrics that a better side is known of."""


@dataclass(frozen=True)
class Pareto:
    """A threshold: no record of the spec dominates the new checkpoint."""

    x: str
    y: str
    file: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def problem(self) -> str | None:
        """Why these are no axes; None if they are."""
        for axis, name in (("x", self.x), ("y", self.y)):
            if name not in AXES:
                return f"{axis} is {name!r}; {allowed(name, AXES, limit=len(AXES))}"
        return f"x and y are both {self.x}" if self.x == self.y else None

    def dominates(self, one: Point, other: Point) -> bool:
        """Whether the one is at least as good in both and better in one, by more than devices and
        batch sizes differ by."""
        x, y = (
            _advantage(name, a, b)
            for name, a, b in ((self.x, one.x, other.x), (self.y, one.y, other.y))
        )
        return min(x, y) >= 0 and max(x, y) > 0

    def frontier(self, points: Iterable[Point]) -> list[Point]:
        """Those that no other dominates, in the order in which they came."""
        every = list(points)
        return [one for one in every if not any(self.dominates(each, one) for each in every)]


@dataclass(frozen=True)
class Point:
    """What was measured of one checkpoint; raises `UndefinedMetricError` where it is not finite."""

    name: str
    x: float
    y: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x) and math.isfinite(self.y)):
            raise UndefinedMetricError(f"{self.name} is at {self.x}, {self.y}")


@dataclass(frozen=True)
class ParetoVerdict:
    """Whether a point is dominated, and by which."""

    pareto: Pareto
    point: Point
    others: tuple[Point, ...]
    """The records that it was compared with."""
    left_out: tuple[str, ...] = ()
    """Records of the spec that are of other tokens or formulas, each with the reason."""

    @property
    def dominated_by(self) -> list[Point]:
        """The records that are better."""
        return [each for each in self.others if self.pareto.dominates(each, self.point)]

    @property
    def passes(self) -> bool:
        """Whether no record is; and there are some."""
        return bool(self.others) and not self.dominated_by


def compared(
    pareto: Pareto, point: Point, others: Sequence[Point], left_out: Sequence[str] = ()
) -> ParetoVerdict:
    """The verdict on a point beside these."""
    return ParetoVerdict(pareto, point, tuple(others), tuple(left_out))


def _advantage(name: str, one: float, other: float) -> int:
    """1 where the one is better, −1 where it is worse, 0 within noise."""
    if abs(one - other) <= NOISE * max(abs(one), abs(other)):
        return 0
    higher = metric(name).direction == "higher"
    return 1 if (one > other) == higher else -1
