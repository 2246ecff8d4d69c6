"""The difference of a ratio of pooled sums between two measurements of the same sequences.

To first order a ratio R̂ = Σ num_i / Σ den_i is linear in the sums of single sequences: sequence i
contributes the influence e_i = (num_i − R̂·den_i) / Σ den_j to its error. The error of a difference
R̂_after − R̂_before is then a sum over sequences of differences of influences, and what a sequence
contributes to both, usually most of it, cancels (Cochran 1977, *Sampling Techniques*, 3rd ed.,
§6.4 for ratios and §7.5 for their differences).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.statistics.ratios import student
from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True)
class Sums:
    """A ratio R̂ and the sums per sequence that it is made of."""

    numerator: NDArray[np.float64]
    """num_i, shape [n_sequences]."""
    denominator: NDArray[np.float64]
    """den_i, shape [n_sequences]."""
    value: float
    """R̂ = Σ num_i / Σ den_i."""

    @property
    def influence(self) -> NDArray[np.float64]:
        """Influence e_i of every sequence on R̂, shape [n_sequences]."""
        return (self.numerator - self.value * self.denominator) / math.fsum(self.denominator)


@dataclass(frozen=True)
class Move:
    """The difference R̂_after − R̂_before, or this difference divided by R̂_before."""

    value: float
    low: float | None
    high: float | None
    """Upper end of the interval; both ends are None for a single sequence."""
    p_value: float | None
    """Two-sided p-value of the hypothesis that the ratio did not change; None for one sequence."""
    confidence: float = 0.95


def move(before: Sums, after: Sums, *, share: bool = False, confidence: float = 0.95) -> Move:
    """Return the paired difference of two ratios with its interval and p-value.

    With d_i = e_i(after) − e_i(before) the interval is

        R̂_after − R̂_before ± t · √(n/(n−1) · Σ d_i²),

    and the p-value that of Student's t-test; t has n − 1 degrees of freedom. With ``share`` the
    interval is that of Q̂ − 1, Q̂ = R̂_after / R̂_before, whose influences are
    d_i = (e_i(after) − Q̂·e_i(before)) / R̂_before. The p-value is the same either way.

    Args:
        before: Sums of the earlier measurement.
        after: Sums of the later measurement, of the same sequences in the same order.
        share: True to divide the difference by R̂_before.
        confidence: Confidence level of the two-sided interval.

    Raises:
        ValueError: The two have different numbers of sequences.
        UndefinedMetricError: A share is requested and R̂_before is not above 0.
    """
    if len(before.numerator) != len(after.numerator):
        raise ValueError(
            f"{len(before.numerator)} rows before, {len(after.numerator)} after; expected one row "
            "for each sequence in both"
        )
    difference = after.value - before.value
    error = _standard_error(after.influence - before.influence)
    p_value = _p_value(difference, error, len(before.numerator))
    if share:
        scale = check_share(before.value)
        ratio = after.value / scale
        error = _standard_error((after.influence - ratio * before.influence) / scale)
        difference /= scale
    if error is None:
        return Move(difference, None, None, p_value, confidence)
    half = student(confidence, len(before.numerator)) * error
    return Move(difference, difference - half, difference + half, p_value, confidence)


def variance_ratio(before: Sums, after: Sums) -> float | None:
    """Return the variance of an unpaired difference over that of the paired difference.

    Unpaired means that the two versions are measured on different texts. That many times as many
    sequences would be needed for an interval of the same width; on as many sequences it would be
    the square root of it times as wide.

    Returns:
        The ratio; None for a single sequence, and where the paired difference has no variance.
    """
    if len(before.numerator) < 2:
        return None
    paired = math.fsum((after.influence - before.influence) ** 2)
    unpaired = math.fsum(before.influence**2) + math.fsum(after.influence**2)
    return unpaired / paired if paired > 0 else None


def check_share(before: float) -> float:
    """Return the value that a share is taken of; raise `UndefinedMetricError` unless it is > 0."""
    if not before > 0:
        raise UndefinedMetricError(
            f"it was {before:.6g}; a relative change needs a value above 0: bound the change in "
            "the metric's unit"
        )
    return before


def _standard_error(influence: NDArray[np.float64]) -> float | None:
    n = len(influence)
    return math.sqrt(n / (n - 1) * math.fsum(influence**2)) if n > 1 else None


def _p_value(difference: float, error: float | None, n: int) -> float | None:
    from scipy.special import stdtr  # imported here, as in `student`

    if error is None:
        return None
    # Student's T is 0/0 or ∞ here: a difference without any variance is certain.
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(difference) / error))
