"""The rule of `sae_guard.core.early_verdicts` for many simulated sets, held to it on few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.early_verdicts import early_verdict
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import COLUMNS
from sae_guard.core.statistics.sequential import Rule, above_zero
from sae_guard.core.thresholds import Threshold

SEEN_WORST = 1.5


class Sets(NamedTuple):
    """Many sets of sequences, each with its bound from above."""

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    bound: NDArray[np.float64]
    tail: float


def state(
    sets: Sets, of: NDArray[np.intp], n: int, rule: Rule
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """After n sequences, whether the bounds of these sets seem crossed, and whether kept."""
    denominator = sets.denominator[of, :n]
    g = sets.numerator[of, :n] - sets.bound[of, None] * denominator
    far = sets.tail * sets.bound[of] * denominator.mean(axis=1)
    worst = np.maximum(far, SEEN_WORST * g.max(axis=1))
    total = sets.numerator.shape[1]
    crossed = above_zero(g, total, alpha=rule.alpha, rule=rule)
    return crossed, above_zero(-g, total, alpha=rule.alpha, rule=rule, unseen=-worst) & ~crossed


def beside(drawn: tuple[NDArray[np.float64], NDArray[np.float64]], rule: Rule) -> None:
    """Raise `AssertionError` where `state` is not what the gate's own code says of KL."""
    numerator, denominator = drawn
    total = numerator.shape[1]
    ratio = numerator.sum(axis=1) / denominator.sum(axis=1)
    for factor in (0.7, 0.9, 1.1, 1.6):
        sets = Sets(numerator, denominator, factor * ratio, 10.0)
        for n in (64, 160, 512, 992):
            found = np.stack(state(sets, np.arange(len(ratio)), n, rule), axis=1)
            for row, (crossed, kept) in enumerate(found):
                measurement = _measurement(numerator[row, :n], denominator[row, :n], total)
                verdict = early_verdict(measurement, Threshold("kl", max=sets.bound[row]), rule, 1)
                said = verdict.status if verdict else None
                assert said == ("fail" if crossed else "pass" if kept else None)


def _measurement(kl: NDArray[np.float64], n_tokens: NDArray[np.float64], total: int) -> Measurement:
    sums = {**dict.fromkeys(COLUMNS, np.ones_like(kl)), "kl": kl, "n_tokens": n_tokens}
    provenance = Provenance({}, {}, {"n_sequences": total}, "", "", {}, {}, "")
    return Measurement(np.arange(len(kl)), sums, np.ones(1, dtype=np.int64), provenance)
