"""`Threshold`: the bounds of one metric, and the line of the spec that sets them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sae_guard.core.targets import Slice, View

OnUndecided = Literal["fail", "warn"]


@dataclass(frozen=True)
class Threshold:
    """The bounds of one metric, and the line of the spec that sets them.

    Bounds are inclusive. ``warn_max`` and ``warn_min`` lie inside them: a value past a warn bound
    passes with a warning.
    """

    metric: str
    """Its name; of another statistic than the mean, ``kl.p99`` or ``kl.worst_sequence``."""
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    """Where set, the interval of this confidence must be clear of the bound, not only the value."""
    on_undecided: OnUndecided = "fail"
    """What becomes of an interval that is clear of neither side."""
    slice: Slice | None = None
    """Which tokens it is about; None for all that are scored."""
    change: Literal["", "difference", "share"] = ""
    """Whether the bounds are on how far the metric moved since a baseline: in its unit, or as a
    share of what it was."""
    file: str = ""
    line: int = 0

    @property
    def view(self) -> View:
        """What it looks at."""
        return replace(View.of(self.metric, self.slice), change=self.change)

    @property
    def where(self) -> str:
        """``file:line`` of the threshold, or where else it comes from."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __post_init__(self) -> None:
        if self.max is None and self.min is None:
            raise ValueError(
                f"threshold on {self.metric!r} has neither max nor min: it cannot fail"
            )
        if self.confidence is not None and not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}, allowed: above 0.5 and below 1")

    def allows(self, value: float) -> bool:
        """Whether ``value`` lies within the bounds; NaN never does."""
        return (self.max is None or value <= self.max) and (self.min is None or value >= self.min)

    def allows_quietly(self, value: float) -> bool:
        """Whether ``value`` lies within the warn bounds too."""
        return (self.warn_max is None or value <= self.warn_max) and (
            self.warn_min is None or value >= self.warn_min
        )

    def nearest_bound(self, value: float) -> tuple[Literal["max", "min"], float]:
        """The bound that ``value`` violates or comes nearest to."""
        sides: list[tuple[float, Literal["max", "min"], float]] = []
        if self.max is not None:
            sides.append((self.max - value, "max", self.max))
        if self.min is not None:
            sides.append((value - self.min, "min", self.min))
        _, side, bound = min(sides)
        return side, bound

    def headroom(self, value: float) -> float:
        """Distance to the nearest bound in the metric's unit; negative when it is crossed."""
        side, bound = self.nearest_bound(value)
        return bound - value if side == "max" else value - bound
