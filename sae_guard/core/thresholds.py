"""`Threshold`: the bounds of one metric, and the line of the spec that sets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sae_guard.core.targets import Target

OnUndecided = Literal["fail", "warn"]


@dataclass(frozen=True)
class Threshold:
    """The bounds of one metric, and the line of the spec that sets them.

    Bounds are inclusive. ``warn_max`` and ``warn_min`` lie inside them: a value past a warn bound
    passes with a warning.
    """

    target: Target
    """What it looks at; as text it is read by `Target.parse`: ``kl``, ``kl.p99``."""
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    """Where set, the interval of this confidence must be clear of the bound, not only the value."""
    on_undecided: OnUndecided = "fail"
    """What becomes of an interval that is clear of neither side."""
    relative: bool = field(default=False, kw_only=True)
    """Of a change: whether value and bounds are shares of what the metric was, not in its unit."""
    file: str = field(default="", kw_only=True)
    line: int = field(default=0, kw_only=True)

    if TYPE_CHECKING:  # the generated one, which also takes the target as text

        def __init__(
            self,
            target: Target | str,
            max: float | None = None,
            min: float | None = None,
            warn_max: float | None = None,
            warn_min: float | None = None,
            confidence: float | None = None,
            on_undecided: OnUndecided = "fail",
            *,
            relative: bool = False,
            file: str = "",
            line: int = 0,
        ) -> None: ...

    @property
    def change(self) -> Literal["", "difference", "share"]:
        """How a change is counted, in the words of records; empty where it is on no change."""
        if not self.target.change:
            return ""
        return "share" if self.relative else "difference"

    @property
    def where(self) -> str:
        """``file:line`` of the threshold, or where else it comes from."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __post_init__(self) -> None:
        if isinstance(self.target, str):
            object.__setattr__(self, "target", Target.parse(self.target))
        if (problem := self.target.problem()) is not None:
            raise ValueError(f"threshold on {self.target}: {problem}")
        if self.relative and not self.target.change:
            raise ValueError(f"threshold on {self.target} is relative, and on no change")
        if self.max is None and self.min is None:
            raise ValueError(f"threshold on {self.target} has neither max nor min: it cannot fail")
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
