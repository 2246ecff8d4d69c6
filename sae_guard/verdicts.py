"""Threshold × measurement → verdict. A comparison is written so that NaN can never pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sae_guard.errors import Cause, UndefinedMetricError

if TYPE_CHECKING:
    from sae_guard.measurement import Measurement
    from sae_guard.statistics import Estimate

Status = Literal["pass", "warn", "fail", "undecided", "error"]


@dataclass(frozen=True)
class Threshold:
    """The bounds of one metric, and the line of the spec that sets them.

    Bounds are inclusive. ``warn_max`` and ``warn_min`` lie inside them: a value past a warn bound
    passes with a warning.
    """

    metric: str
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    file: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """``file:line`` of the threshold, or where else it comes from."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __post_init__(self) -> None:
        if self.max is None and self.min is None:
            raise ValueError(
                f"threshold on {self.metric!r} has neither max nor min: it cannot fail"
            )

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


@dataclass(frozen=True)
class Verdict:
    """What a threshold says of a measurement."""

    threshold: Threshold
    status: Status
    estimate: Estimate | None = None
    cause: Cause | None = None
    message: str = ""
    """Why there is no verdict, for the status ``error``."""


def judge(measurement: Measurement, threshold: Threshold) -> Verdict:
    """The verdict of ``threshold`` on ``measurement``: pass, warn, fail, or error with its cause.

    An undefined metric (NaN, missing rows, no tokens, a denominator near zero) is an error of the
    load when only the columns that the SAE produced are not finite, of the setup otherwise.
    """
    try:
        estimate = measurement.estimate(threshold.metric)
    except UndefinedMetricError as error:
        cause: Cause = "load" if _only_the_sae_is_broken(measurement) else "setup"
        return Verdict(threshold, "error", cause=cause, message=str(error))
    if not math.isfinite(estimate.value):
        return Verdict(
            threshold, "error", estimate, "setup", f"{threshold.metric} is {estimate.value}"
        )
    if not threshold.allows(estimate.value):
        return Verdict(threshold, "fail", estimate)
    quiet = threshold.allows_quietly(estimate.value)
    return Verdict(threshold, "pass" if quiet else "warn", estimate)


_WITHOUT_THE_SAE = ("n_tokens", "ce_clean", "ce_zero", "ce_mean", "sq_deviation")


def _only_the_sae_is_broken(measurement: Measurement) -> bool:
    finite = {name: all(map(math.isfinite, column)) for name, column in measurement.sums.items()}
    return all(finite[name] for name in _WITHOUT_THE_SAE) and not all(finite.values())
