"""Compare two measurements of the same sequences, paired row by row."""

from sae_guard.core.comparison.change import Baseline, Change, change
from sae_guard.core.comparison.comparable import (
    Differences,
    NotComparableError,
    differences,
    formula_difference,
    setting_differences,
)
from sae_guard.core.comparison.compare import Comparison, compare
from sae_guard.core.comparison.metric_move import MetricMove, Outcome, Standing, Version
from sae_guard.core.comparison.moved import Moved, MovedSequence, MovedToken

__all__ = [
    "Baseline", "Change", "Comparison", "Differences", "MetricMove", "Moved", "MovedSequence",
    "MovedToken", "NotComparableError", "Outcome", "Standing", "Version", "change", "compare",
    "differences", "formula_difference", "setting_differences",
]  # fmt: skip
