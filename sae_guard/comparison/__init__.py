"""Two measurements of the same sequences, row by row: what moved, and what may be compared."""

from sae_guard.comparison.change import Baseline, Change, change
from sae_guard.comparison.comparable import (
    Differences,
    differences,
    formula_difference,
    other_things,
)

__all__ = [
    "Baseline",
    "Change",
    "Differences",
    "change",
    "differences",
    "formula_difference",
    "other_things",
]
