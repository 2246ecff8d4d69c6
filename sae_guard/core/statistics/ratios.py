"""Ratios of pooled sums and quantiles, with intervals that are clustered by sequence.

Tokens of one sequence are not independent, so that the sequence is the unit of sampling
(`docs/explanation/statistics.md`). Symbols: sequence i of n has the sums num_i and den_i over its
scored tokens; R̂ = Σ num_i / Σ den_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.errors import UndefinedMetricError

NOISE = 1e-5
"""Relative difference of a value between devices, batch sizes and library versions."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value on the whole token set, and the interval for the text it was drawn from."""

    value: float
    low: float | None
    high: float | None
    """Upper end of the interval. Both ends are None where it is undefined: for a single sequence,
    and for a share of latents, which is no ratio of sums."""
    n_tokens: int
    n_sequences: int
    confidence: float = 0.95
    """Confidence level of the two-sided interval."""

    def sequences_for(self, bound: float) -> int | None:
        """Return how many sequences like these would bring the interval clear of ``bound``.

        The half-width shrinks as 1/√n. None where the value is the bound or has no interval.
        """
        if self.high is None or self.value == bound:
            return None
        half_widths = (self.high - self.value) / abs(self.value - bound)
        return max(self.n_sequences, math.ceil(self.n_sequences * half_widths**2))


def ratio(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], *, floor: float = 0.0
) -> float:
    """Return R̂ = Σ num_i / Σ den_i.

    The sums are rounded once (`math.fsum`), so that neither the order of rows nor the split into
    batches changes the result.

    Args:
        numerator: num_i, shape [n_sequences].
        denominator: den_i, shape [n_sequences].
        floor: Value that Σ den_i has to exceed.

    Raises:
        UndefinedMetricError: A sum is not finite, or Σ den_i is not above ``floor``.
    """
    num_sum, den_sum = _exact_sum(numerator), _exact_sum(denominator)
    if not (math.isfinite(num_sum) and math.isfinite(den_sum)):
        raise UndefinedMetricError(f"the sums are not finite: {num_sum} / {den_sum}")
    if not den_sum > floor:
        raise UndefinedMetricError(
            f"the denominator is {den_sum:.6g}, not above {floor:.6g}: the ratio is undefined"
        )
    return num_sum / den_sum


def ratio_interval(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    value: float,
    *,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Return the two-sided interval of R̂, clustered by sequence.

        R̂ ± t · √(n/(n−1) · Σ e_i²) / Σ den_i,    e_i = num_i − R̂·den_i,

    the linearised variance of a ratio (Cochran 1977, *Sampling Techniques*, 3rd ed., §6.4), with t
    the quantile of Student's distribution with n − 1 degrees of freedom.

    Args:
        numerator: num_i, shape [n_sequences].
        denominator: den_i, shape [n_sequences].
        value: R̂.
        confidence: Confidence level, such as 0.95.

    Returns:
        The ends (low, high). None for a single sequence, whose spread is unknown rather than zero,
        and where the squares exceed the largest float.
    """
    n = len(numerator)
    if n < 2:
        return None
    residual = numerator - value * denominator
    with np.errstate(over="ignore"):
        square = _exact_sum(residual**2)
    if not math.isfinite(square):
        return None
    error = math.sqrt(n / (n - 1) * square) / _exact_sum(denominator)
    half = student(confidence, n) * error
    return value - half, value + half


def rescaled(estimate: Estimate, confidence: float) -> tuple[float, float] | None:
    """Return the interval of a ratio at another confidence level; None where it has none.

    The half-width is proportional to Student's quantile (see `ratio_interval`). This does not hold
    for the interval of a quantile.
    """
    if estimate.low is None or estimate.high is None:
        return None
    n = estimate.n_sequences
    new_t, old_t = (student(level, n) for level in (confidence, estimate.confidence))
    half = (estimate.high - estimate.low) / 2 * (new_t / old_t)
    return estimate.value - half, estimate.value + half


def student(confidence: float, n: int) -> float:
    """Return Student's quantile for a two-sided interval over ``n`` sequences."""
    # Imported here: it takes 50 ms, which collecting tests and failing early need not pay.
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.5 + confidence / 2))


def _exact_sum(values: NDArray[np.float64]) -> float:
    """Return the sum, rounded once; NaN where it is not finite."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # fsum refuses inf − inf and sums past the largest float
        return math.nan


def quantile(values: NDArray[np.float64], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed.

    This is the inverse of the empirical distribution function, without interpolation.

    Raises:
        UndefinedMetricError: There are no values, or one is not finite.
    """
    if not values.size or not np.isfinite(values).all():
        raise UndefinedMetricError("a token's value is not finite, or there is none")
    return float(np.quantile(values, share, method="inverted_cdf"))


def quantile_interval(
    values: NDArray[np.float64],
    share: float,
    at_or_below: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Return the interval of a quantile, clustered by sequence (Woodruff 1952, JASA 47, 635).

    The share of tokens at or below the quantile is a ratio of sums, with the half-width h of
    `ratio_interval`. The ends are the quantiles of level ``share`` − h and ``share`` + h.

    Args:
        values: Values of all tokens, shape [n_tokens].
        share: Level of the quantile, above 0 and below 1.
        at_or_below: Number of tokens that do not exceed the quantile, shape [n_sequences].
        counts: Number of tokens, shape [n_sequences].
        confidence: Confidence level of the interval.

    Returns:
        The ends (low, high). None for a single sequence, and where a level is not between 0 and 1.
    """
    interval = ratio_interval(
        at_or_below, counts, ratio(at_or_below, counts), confidence=confidence
    )
    if interval is None:
        return None
    half = (interval[1] - interval[0]) / 2
    if not (share - half > 0 and share + half < 1):
        return None
    return quantile(values, share - half), quantile(values, share + half)
