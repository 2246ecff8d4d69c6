"""What a metric is: unit, direction, formula version, and the columns it is a ratio of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Side = Literal["max", "min"]
Direction = Literal["lower", "higher", "window"]

_SIDES: Mapping[Direction, tuple[Side, ...]] = {
    "lower": ("max",),
    "higher": ("min",),
    "window": ("max", "min"),
}


def sums(**coefficients: float) -> Mapping[str, float]:
    """Column → its coefficient."""
    return MappingProxyType(coefficients)


@dataclass(frozen=True)
class Metric:
    """One metric: how it is called, which way is better, and what it is a ratio of."""

    name: str
    unit: str
    direction: Direction
    formula: str
    numerator: Mapping[str, float] = field(default_factory=dict)
    denominator: Mapping[str, float] = field(default_factory=lambda: sums(n_tokens=1))
    also_called: str = ""
    version: int = 1
    """Raised whenever the formula changes: numbers of two versions are never compared."""
    min_denominator: float = 0.0
    """Per scored token; at or below it the ratio is undefined."""
    min_tokens: int = 1
    """Scored tokens below which the metric is undefined, and a bound on it refused."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """What the value can be: a bound outside it cannot pass, or cannot fail."""
    firing_above: float | None = None
    """For latent shares: the firing frequency that counts a latent in (see `latent_share`)."""
    tail_from: float = 0.0
    """Where the values of sequences crowd; their heavy tail leads away from it, above 0 and below
    1. Margins of bounds are a share of the distance from there (`sae_guard.core.tightening`)."""
    tail: float = 10.0
    """How far out a sequence may be that was not seen yet, in distances of the bound from there:
    what an early verdict reckons with (`docs/statistics.md`)."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The bounds that make sense: ``max`` where lower is better, ``min`` where higher is."""
        return _SIDES[self.direction]

    @property
    def columns(self) -> frozenset[str]:
        """What it is made of."""
        return frozenset({*self.numerator, *self.denominator})
