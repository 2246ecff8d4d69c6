"""When the first sequences of a fixed set tell the sign of a sum over all of them.

A threshold holds iff Σ g_i ≤ 0 over the N sequences of the set. Their order is random, so that
S_n/(N − n) is a martingale when Σ g = 0, and an asymptotic confidence sequence (Waudby-Smith,
Arbour, Sinha, Kennedy and Ramdas 2024, *Time-uniform central limit theory and asymptotic confidence
sequences*, Annals of Statistics 52(6), 2613; here without replacement) may be looked at after any
number of sequences. T is corrected for the skewness of the sample (Hall 1992, *On the removal of
skewness by transformation*, JRSS B 54, 221). `docs/statistics.md` has the formulas,
`benchmarks/early.py` the error rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]
"""Shape [..., n]: of several sets at once, as simulations have them."""


@dataclass(frozen=True)
class Rule:
    """How sure an early verdict has to be, and from when on there may be one."""

    alpha: float = 1e-3
    """Chance that it differs from the verdict on the whole set."""
    minimum: int = 64
    """Sequences: with fewer, their spread is not known well enough."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}, allowed: above 0 and below 0.5")
        if self.minimum < 2:
            raise ValueError(f"minimum is {self.minimum}, allowed: 2 or more")


def above_zero(
    g: Sums,
    total: int,
    *,
    alpha: float,
    rule: Rule,
    unseen: NDArray[np.float64] | float | None = None,
) -> NDArray[np.bool_]:
    """Whether Σ g over the whole set is above zero, by what was seen of it; shape [...].

    Args:
        g: Of the sequences that were seen, shape [..., n].
        total: Sequences of the whole set; nothing is said when all were seen.
        alpha: Chance of saying so at any of all looks although Σ g is not above zero.
        rule: Whose ``minimum`` is kept; its ``alpha`` shapes the boundary.
        unseen: g of the worst sequence that may still come, shape [...], where there is a heavy
            tail below: the spread does not tell of what was not drawn, so it is counted in.
    """
    n = g.shape[-1]
    if n < rule.minimum or not n < total:
        return np.zeros(g.shape[:-1], dtype=np.bool_)
    needed = -math.log(alpha)
    said: NDArray[np.bool_] = log_evidence(g, total, rule=rule) >= needed
    if unseen is None or not said.any():
        return said
    _, _, skewness = _moments(g)
    worst = np.broadcast_to(np.asarray(unseen)[..., None], (*g.shape[:-1], 1))
    mean, square, _ = _moments(np.concatenate([g, worst], axis=-1))
    return said & (_evidence(mean, square, skewness, n + 1, total, rule) >= needed)


def log_evidence(g: Sums, total: int, *, rule: Rule) -> NDArray[np.float64]:
    """Log of the evidence that Σ g > 0, a mixture over effect sizes; 0 and below: none.

    Exceeds −log α at any look with a chance of at most α, asymptotically, if Σ g ≤ 0. NaN where g
    is not finite.

    Args:
        g: Of the sequences that were seen, shape [..., n].
        total: Sequences of the whole set.
        rule: Shapes the mixture: it is sharpest at its ``minimum``.
    """
    return _evidence(*_moments(g), g.shape[-1], total, rule)


def evidence_of_moments(
    first: Sums, second: Sums, n: int, total: int, *, rule: Rule
) -> NDArray[np.float64]:
    """The same of Σ g and Σ g² over n sequences, each of any shape, without their skewness."""
    mean = first / n
    square = np.maximum(second / n - mean**2, 0)
    return _evidence(mean, square, np.zeros_like(mean), n, total, rule)


def _evidence(
    mean: Sums, square: Sums, skewness: Sums, n: int, total: int, rule: Rule
) -> NDArray[np.float64]:
    # 50 ms of import that collecting and failing early should not pay.
    from scipy.special import log_ndtr, ndtri, stdtr

    seen = min(n / total, 1 - 1 / total)
    spread = -2 * math.log(2 * rule.alpha)
    r = n / (1 - seen) * (spread + math.log(spread + 1)) / rule.minimum
    with np.errstate(invalid="ignore"):
        z = -ndtri(stdtr(n - 1, -_studentised(mean, square, skewness, n, seen)))
        a = z * math.sqrt(r / (1 + r))
        log = math.log(2) - math.log1p(r) / 2 + a * a / 2 + log_ndtr(a)
    # Far below zero a²/2 and the tail are infinities that do not cancel.
    return np.where(a < 0, np.minimum(np.nan_to_num(log, nan=-np.inf), 0), log)


def _studentised(
    mean: Sums, square: Sums, skewness: Sums, n: int, seen: float
) -> NDArray[np.float64]:
    """Mean over its standard error without replacement, corrected for skewness."""
    h = math.sqrt(n * (1 - seen))
    q = skewness * (2 - seen) / (2 * h)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = mean / np.sqrt(square * n / (n - 1)) * math.sqrt(n / (1 - seen))
        t = t + q * t**2 / 3 + q**2 * t**3 / 27 + skewness * (1 - 2 * seen) / (6 * h)
    # Of no spread there is no doubt; NaN stays.
    certain = np.where(mean == 0, 0.0, np.copysign(np.inf, mean))
    return np.where(square > 0, t, np.where(square == 0, certain, np.nan))


def _moments(g: Sums) -> tuple[Sums, Sums, Sums]:
    """Mean, mean square about it, and skewness; without spread, of none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = g.mean(axis=-1)
        centred = g - mean[..., None]
        square = (centred**2).mean(axis=-1)
        skewness = (centred**3).mean(axis=-1) / square**1.5
    return mean, square, np.where(square > 0, skewness, 0.0)
