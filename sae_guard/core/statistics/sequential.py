"""Decide the sign of a sum over a fixed set from its first sequences, at any number of them.

A threshold holds iff Σ g_i ≤ 0 over the N sequences of the set. Their order is random, so that
S_n/(N − n), S_n the sum of the first n, is a martingale when Σ g_i = 0. An asymptotic confidence
sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, *Time-uniform central limit theory
and asymptotic confidence sequences*, Annals of Statistics 52(6), 2613; here for sampling without
replacement) then stays valid after any number of looks. The t-statistic T is corrected for the
skewness of the sample (Hall 1992, *On the removal of skewness by transformation*, JRSS B 54, 221).
`docs/explanation/early-verdicts.md` has the formulas, `benchmarks/early.py` measures error rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""Array of g_i, shape [..., n]; the leading axes are independent sets, as in simulations."""


@dataclass(frozen=True)
class Rule:
    """The error probability of early verdicts, and the least number of sequences for one."""

    alpha: float = 1e-3
    """Largest probability that an early verdict differs from the one on the whole set."""
    minimum: int = 64
    """Least number of sequences; with fewer the variance is not estimated well enough."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}, allowed: above 0 and below 0.5")
        if self.minimum < 2:
            raise ValueError(f"minimum is {self.minimum}, allowed: 2 or more")


def above_zero(
    g: Values,
    total: int,
    *,
    alpha: float,
    rule: Rule,
    unseen: NDArray[np.float64] | float | None = None,
) -> NDArray[np.bool_]:
    """Test whether Σ g_i over the whole set is above zero, from the first n sequences.

    Args:
        g: g_i of the first n sequences, shape [..., n].
        total: Number N of sequences in the whole set.
        alpha: Largest probability, over all looks together, of a wrong True.
        rule: Rule whose ``minimum`` is the least n; its ``alpha`` shapes the boundary.
        unseen: Smallest g of a sequence that may still come, shape [...]. Where g has a heavy lower
            tail, the sample variance misses what was not drawn yet; the test then has to hold with
            this sequence added, too.

    Returns:
        True where the sum is above zero, shape [...]. False where that is not decided: with fewer
        than ``minimum`` sequences, and where n = N, for which the sum itself is known.
    """
    n = g.shape[-1]
    if n < rule.minimum or not n < total:
        return np.zeros(g.shape[:-1], dtype=np.bool_)
    needed = -math.log(alpha)
    decided: NDArray[np.bool_] = log_evidence(g, total, rule=rule) >= needed
    if unseen is None or not decided.any():
        return decided
    _, _, skewness = _moments(g)
    worst = np.broadcast_to(np.asarray(unseen)[..., None], (*g.shape[:-1], 1))
    mean, square, _ = _moments(np.concatenate([g, worst], axis=-1))
    return decided & (_evidence(mean, square, skewness, n + 1, total, rule) >= needed)


def log_evidence(g: Values, total: int, *, rule: Rule) -> NDArray[np.float64]:
    """Return the log of the evidence (an e-value) for Σ g_i > 0, a mixture over effect sizes.

    If Σ g_i ≤ 0, the probability that it ever exceeds −log α is asymptotically at most α.

    Args:
        g: g_i of the first n sequences, shape [..., n].
        total: Number N of sequences in the whole set.
        rule: Rule that shapes the mixture: it is most powerful after ``minimum`` sequences.

    Returns:
        The log evidence, shape [...]: none at or below 0; NaN where g is not finite.
    """
    return _evidence(*_moments(g), g.shape[-1], total, rule)


def evidence_of_moments(
    first: Values, second: Values, n: int, total: int, *, rule: Rule
) -> NDArray[np.float64]:
    """Return the log evidence from Σ g and Σ g² over n sequences, without skewness correction.

    Args:
        first: Σ g over the first n sequences, any shape.
        second: Σ g² over them, of the same shape.
        n: Number of sequences measured so far.
        total: Number N of sequences in the whole set.
        rule: Rule that shapes the mixture, as for `log_evidence`.
    """
    mean = first / n
    # Rounding could leave a variance slightly below 0.
    square = np.maximum(second / n - mean**2, 0)
    return _evidence(mean, square, np.zeros_like(mean), n, total, rule)


def _evidence(
    mean: Values, square: Values, skewness: Values, n: int, total: int, rule: Rule
) -> NDArray[np.float64]:
    """Return log(2/√(1+r) · exp(a²/2) · Φ(a)), a = z·√(r/(1+r)).

    See `docs/explanation/early-verdicts.md`.

    It is the likelihood ratio of z, T as a normal deviate, mixed over a half-normal distribution
    of positive effects. r grows with n/(1 − n/N) and is scaled by the boundary that is narrowest
    after ``rule.minimum`` sequences (Waudby-Smith et al. 2024).
    """
    # Imported here: it takes 50 ms, which collecting tests and failing early need not pay.
    from scipy.special import log_ndtr, ndtri, stdtr

    # With the imagined sequence n may be N, where 1 − f would be 0.
    fraction = min(n / total, 1 - 1 / total)
    log_term = -2 * math.log(2 * rule.alpha)
    r = n / (1 - fraction) * (log_term + math.log(log_term + 1)) / rule.minimum
    # A NaN goes on: it compares as False, and so is no evidence.
    with np.errstate(invalid="ignore"):
        # By the lower tails: F(T) of a large T rounds to 1, and Φ⁻¹(1) is ∞.
        z = -ndtri(stdtr(n - 1, -_studentised(mean, square, skewness, n, fraction)))
        a = z * math.sqrt(r / (1 + r))
        log = math.log(2) - math.log1p(r) / 2 + a * a / 2 + log_ndtr(a)
    # For very negative a, a²/2 and log Φ(a) overflow to infinities that do not cancel.
    return np.where(a < 0, np.minimum(np.nan_to_num(log, nan=-np.inf), 0), log)


def _studentised(
    mean: Values, square: Values, skewness: Values, n: int, fraction: float
) -> NDArray[np.float64]:
    """Return the mean over its standard error, corrected for skewness (Hall 1992).

    ``fraction`` = n/N is the share of the set that was measured: without replacement the variance
    of the mean has the factor 1 − n/N, and the skewness corrections shrink accordingly.
    """
    h = math.sqrt(n * (1 - fraction))
    q = skewness * (2 - fraction) / (2 * h)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # `square` is divided by n, the sample variance by n − 1.
        t = mean / np.sqrt(square * n / (n - 1)) * math.sqrt(n / (1 - fraction))
        t = t + q * t**2 / 3 + q**2 * t**3 / 27 + skewness * (1 - 2 * fraction) / (6 * h)
    # Without variance the sign of the mean is certain; NaN stays NaN.
    certain = np.where(mean == 0, 0.0, np.copysign(np.inf, mean))
    return np.where(square > 0, t, np.where(square == 0, certain, np.nan))


def _moments(g: Values) -> tuple[Values, Values, Values]:
    """Return mean, variance (divided by n) and skewness over the last axis.

    The skewness is 0 where the variance is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a variance of 0 is handled below
        mean = g.mean(axis=-1)
        centred = g - mean[..., None]
        square = (centred**2).mean(axis=-1)
        skewness = (centred**3).mean(axis=-1) / square**1.5
    return mean, square, np.where(square > 0, skewness, 0.0)
