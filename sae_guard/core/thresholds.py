"""`Threshold`: the bounds on one target, and the line of the spec that sets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sae_guard.core.targets import CHANGE, Target

OnUndecided = Literal["fail", "warn"]


@dataclass(frozen=True)
class Threshold:
    """The bounds on one target, and the line of the spec that sets them.

    Bounds are inclusive. ``warn_max`` and ``warn_min`` lie inside them: a value past a warn bound
    passes with a warning.
    """

    target: Target
    """Quantity that is bounded; a text such as ``kl`` or ``kl.p99`` is read by `Target.parse`."""
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    """Confidence level of the interval that has to lie within the bounds; None where only the value
    has to."""
    on_undecided: OnUndecided = "fail"
    """Status of a verdict whose interval contains a bound: the run fails or warns."""
    relative: bool = field(default=False, kw_only=True)
    """True for a change that is relative to the baseline's value, as are its bounds; False for one
    in the metric's unit."""
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
        """Unit of a change as records write it; empty for a target that is not a change."""
        if not self.target.change:
            return ""
        return "share" if self.relative else "difference"

    @property
    def where(self) -> str:
        """``file:line`` of the threshold, or another origin where it is in no file."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __post_init__(self) -> None:
        if isinstance(self.target, str):
            object.__setattr__(self, "target", Target.parse(self.target))  # the dataclass is frozen
        if (problem := self.target.problem()) is not None:
            raise ValueError(f"threshold on {self.target}: {problem}")
        if self.relative and not self.target.change:
            raise ValueError(
                f"threshold on {self.target} is relative, which is allowed only on a change: bound "
                f"{self.target.metric}.{CHANGE}"
            )
        if self.max is None and self.min is None:
            raise ValueError(f"threshold on {self.target} has neither max nor min: it cannot fail")
        if self.confidence is not None and not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}, allowed: above 0.5 and below 1")

    def allows(self, value: float) -> bool:
        """Return whether ``value`` lies within the bounds; NaN never does."""
        return (self.max is None or value <= self.max) and (self.min is None or value >= self.min)

    def allows_quietly(self, value: float) -> bool:
        """Return whether ``value`` lies within the warn bounds."""
        return (self.warn_max is None or value <= self.warn_max) and (
            self.warn_min is None or value >= self.warn_min
        )

    def nearest_bound(self, value: float) -> tuple[Literal["max", "min"], float]:
        """Return side and value of the bound that ``value`` violates or is nearest to."""
        sides: list[tuple[float, Literal["max", "min"], float]] = []
        if self.max is not None:
            sides.append((self.max - value, "max", self.max))
        if self.min is not None:
            sides.append((value - self.min, "min", self.min))
        _, side, bound = min(sides)
        return side, bound

    def headroom(self, value: float) -> float:
        """Return the distance to the nearest bound in the metric's unit; negative past it."""
        side, bound = self.nearest_bound(value)
        return bound - value if side == "max" else value - bound
