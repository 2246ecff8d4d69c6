"""Ratios of pooled sums with their intervals, clustered by sequence.

The formulas and why sequences, not tokens, are the clusters: `docs/architecture.md`, "Numbers".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.errors import UndefinedMetricError

NOISE = 1e-5
"""Relative: what a value differs by between devices, batch sizes and library versions."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value on the whole token set, and the interval for the text it was drawn from."""

    value: float
    low: float | None
    high: float | None
    """The interval; None where it is undefined (one sequence, or no ratio), never of width 0."""
    n_tokens: int
    n_sequences: int
    confidence: float = 0.95
    """Of the interval, two-sided."""

    def sequences_for(self, bound: float) -> int | None:
        """How many sequences like these it takes until the interval is clear of ``bound``.

        The half-width shrinks with √n; None where the value is the bound, or has no interval.
        """
        if self.high is None or self.value == bound:
            return None
        half = (self.high - self.value) / abs(self.value - bound)
        return max(self.n_sequences, math.ceil(self.n_sequences * half**2))


def ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], *, floor: float = 0.0
) -> float:
    """R = Σ num_i / Σ den_i, exactly rounded sums: neither row order nor batch split changes it.

    Args:
        numerator: One sum per sequence, shape [n_sequences].
        denominator: The same for the denominator.
        floor: Σ den_i at or below it is no denominator.

    Raises:
        UndefinedMetricError: A sum is not finite, or the denominator is not above the floor.
    """
    top, bottom = _exact_sum(numerator), _exact_sum(denominator)
    if not (math.isfinite(top) and math.isfinite(bottom)):
        raise UndefinedMetricError(f"the sums are not finite: {top} / {bottom}")
    if not bottom > floor:
        raise UndefinedMetricError(
            f"the denominator is {bottom:.6g}, not above {floor:.6g}: the ratio is undefined"
        )
    return top / bottom


def ratio_interval(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    value: float,
    *,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """R̂ ± t·√(n/(n−1)·Σ e_i²)/Σ den_i with e_i = num_i − R̂·den_i, one cluster a sequence.

    The linearised variance of a ratio (Cochran, *Sampling Techniques*, 3rd ed., §6.4) with
    Student's quantile of n − 1 degrees of freedom. None for a single sequence, whose spread is
    unknown, not zero, and where squares are past the largest float.
    """
    # 50 ms of import that collecting and failing early should not pay.
    from scipy.special import stdtrit

    n = len(numerator)
    if n < 2:
        return None
    residual = numerator - value * denominator
    with np.errstate(over="ignore"):
        square = _exact_sum(residual**2)
    if not math.isfinite(square):
        return None
    error = math.sqrt(n / (n - 1) * square) / _exact_sum(denominator)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * error
    return value - half, value + half


def rescaled(estimate: Estimate, confidence: float) -> tuple[float, float] | None:
    """The interval of a ratio at another confidence; None where it has none.

    Its half-width goes by Student's quantiles (`ratio_interval`). That of a quantile does not.
    """
    from scipy.special import stdtrit

    if estimate.low is None or estimate.high is None:
        return None
    asked, had = stdtrit(
        estimate.n_sequences - 1, [0.5 + confidence / 2, 0.5 + estimate.confidence / 2]
    )
    half = (estimate.high - estimate.low) / 2 * float(asked / had)
    return estimate.value - half, estimate.value + half


def _exact_sum(values: NDArray[np.float64]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # fsum refuses inf − inf and sums past the largest float
        return math.nan


def quantile(values: NDArray[np.float64], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed.

    Raises:
        UndefinedMetricError: There are none, or one is not finite.
    """
    if not values.size or not np.isfinite(values).all():
        raise UndefinedMetricError("a token's value is not finite, or there is none")
    return float(np.quantile(values, share, method="inverted_cdf"))


def quantile_interval(
    values: NDArray[np.float64],
    share: float,
    below: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """The quantiles at the ends of the interval of the share, clustered by sequence (Woodruff).

    Args:
        values: Of all tokens.
        share: Of the quantile.
        below: Tokens of each sequence that do not exceed it, shape [n_sequences].
        counts: Tokens of each sequence.
        confidence: Of the interval.

    None for a single sequence, and where an end lies beyond what was seen.
    """
    interval = ratio_interval(below, counts, ratio(below, counts), confidence=confidence)
    if interval is None:
        return None
    half = (interval[1] - interval[0]) / 2
    if not (share - half > 0 and share + half < 1):
        return None
    return quantile(values, share - half), quantile(values, share + half)
