"""Some of the scored tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import Measurement
from sae_guard.errors import UndefinedMetricError, allowed

_RANGES: tuple[Literal["position", "entropy"], ...] = ("position", "entropy")


@dataclass(frozen=True)
class Slice:
    """Some of the scored tokens: by their position, by how uncertain the clean model is there, or
    by where the text comes from.

    ``low`` is inside, ``high`` is not; ``glob`` is of sources alone.
    """

    by: Literal["position", "entropy", "source"]
    low: float = 0.0
    high: float = math.inf
    glob: str = ""

    def __str__(self) -> str:
        if self.by == "source":
            return f"source={self.glob}"
        end = "" if math.isinf(self.high) else f"{self.high:g}"
        return f"{self.by}={self.low:g}..{end}"

    @classmethod
    def read(cls, text: str) -> Slice:
        """The slice that is written so; raises `ValueError` where none is."""
        by, _, what = text.partition("=")
        if by == "source":
            return cls("source", glob=what)
        low, _, high = what.partition("..")
        for kind in _RANGES:
            if by == kind:
                return cls(kind, float(low), float(high) if high else math.inf)
        raise ValueError(f"no slice {text!r}")

    def matches(self, sources: Iterable[str]) -> list[bool]:
        """Whether texts from these sources are in it."""
        return [fnmatchcase(source, self.glob) for source in sources]

    def rows(self, measurement: Measurement) -> NDArray[np.bool_]:
        """Which sequences come from its sources, shape [n_sequences].

        Raises:
            UndefinedMetricError: None does, or it is not known.
        """
        if not measurement.sources:
            raise UndefinedMetricError(f"{self}: where the sequences come from is not known")
        found = np.array(self.matches(measurement.sources), dtype=np.bool_)
        if not found.any():
            hint = allowed(self.glob, measurement.sources)
            raise UndefinedMetricError(f"{self}: no sequence comes from there; {hint}")
        return found

    def mask(self, measurement: Measurement) -> NDArray[np.bool_]:
        """Which tokens are in it, scored or not, shape [n_sequences, pos].

        Raises:
            UndefinedMetricError: As `rows`; or the values of single tokens were not kept.
        """
        table = measurement.tokens
        if table is None:
            raise UndefinedMetricError(f"{self}: values of single tokens were not kept")
        shape = table.scored.shape
        if self.by == "source":
            return np.broadcast_to(self.rows(measurement)[:, None], shape)
        by: NDArray[np.float64] | NDArray[np.float32] = table.columns["entropy"]
        if self.by == "position":
            by = np.broadcast_to(np.arange(shape[1], dtype=np.float64), shape)
        inside: NDArray[np.bool_] = (by >= self.low) & (by < self.high)
        return inside
