"""How a ratio of pooled sums moved between two measurements of the same sequences.

R = Σ num_i / Σ den_i of each is linear in the sums of single sequences up to errors of second
order: R̂ + Σ e_i, e_i = (num_i − R̂·den_i) / Σ den. So the move is a sum of differences row by row,
whose variance is that of these: what both share of a sequence, most of it, cancels (Cochran,
*Sampling Techniques*, 3rd ed., §6.4 and §7.5, for ratios and for their differences).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True)
class Sums:
    """A ratio and what it is made of."""

    numerator: NDArray[np.float64]
    """One sum per sequence, shape [n_sequences]."""
    denominator: NDArray[np.float64]
    """The same for the denominator."""
    value: float
    """Σ numerator / Σ denominator."""

    @property
    def influence(self) -> NDArray[np.float64]:
        """What each sequence adds to the error of the value."""
        return (self.numerator - self.value * self.denominator) / math.fsum(self.denominator)


@dataclass(frozen=True)
class Move:
    """R_after − R_before, or that as a share of R_before."""

    value: float
    low: float | None
    high: float | None
    """The interval; None for a single sequence."""
    p_value: float | None
    """Two-sided, of no move at all."""
    confidence: float = 0.95


def move(before: Sums, after: Sums, *, share: bool = False, confidence: float = 0.95) -> Move:
    """The move, its interval, and the chance of one as large if there were none.

    Student's t with n − 1 degrees of freedom, one cluster a sequence. The interval of a share is
    that of R_after / R_before − 1.

    Args:
        before: Of the same sequences as ``after``, in the same order.
        after: What it moved to.
        share: Whether it is given as a share of R_before.
        confidence: Of the interval, two-sided.

    Raises:
        UndefinedMetricError: A share is asked for of what is not above 0.
    """
    if len(before.numerator) != len(after.numerator):
        raise ValueError(f"{len(before.numerator)} rows before, {len(after.numerator)} after")
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
    half = _quantile(confidence, len(before.numerator)) * error
    return Move(difference, difference - half, difference + half, p_value, confidence)


def variance_ratio(before: Sums, after: Sums) -> float | None:
    """How many times the variance of the move is that were the two measured on texts apart.

    Its root is how many times wider the interval would be, and it is how many times the sequences
    it would take. None where the move does not vary, or of a single sequence.
    """
    if len(before.numerator) < 2:
        return None
    paired = math.fsum((after.influence - before.influence) ** 2)
    apart = math.fsum(before.influence**2) + math.fsum(after.influence**2)
    return apart / paired if paired > 0 else None


def check_share(before: float) -> float:
    """What a share is taken of; raises `UndefinedMetricError` where that is not above 0."""
    if not before > 0:
        raise UndefinedMetricError(f"it was {before:.6g}, of which a share says nothing")
    return before


def _standard_error(influence: NDArray[np.float64]) -> float | None:
    n = len(influence)
    return math.sqrt(n / (n - 1) * math.fsum(influence**2)) if n > 1 else None


def _quantile(confidence: float, n: int) -> float:
    # 50 ms of import that collecting and failing early should not pay.
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.5 + confidence / 2))


def _p_value(difference: float, error: float | None, n: int) -> float | None:
    from scipy.special import stdtr

    if error is None:
        return None
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(difference) / error))
