"""Judge thresholds early: on the first rows of a measurement, in random order.

With probability at least 1 − α an early verdict is the one on the whole token set
(`statistics.sequential`; the error rates are measured in `benchmarks/early.py`). Only the verdict
is early: the estimate on the first rows is never reported as the metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import ALL_COLUMNS, Side, metric
from sae_guard.core.statistics import NOISE
from sae_guard.core.statistics.sequential import Rule, above_zero, evidence_of_moments
from sae_guard.core.targets import WORST, Terms, counts_past_bound, estimate, level, terms
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Status, Verdict, undefined
from sae_guard.errors import UndefinedMetricError

_SURE_DENOMINATOR = 10.0
"""Smallest mean / standard error of a denominator for which its ratio is judged early."""
_UNSEEN_OVER_WORST = 1.5
"""Worst sequence still to come, as a multiple of the worst one measured so far."""
_QUANTILE_TAIL = 12.5
"""`Metric.tail` for the share of a sequence's tokens that lie past the bound of a quantile."""
_DENSE_TAIL = 5.0
"""`Metric.tail` for the firing frequency of one latent on a sequence."""

State = Literal["kept", "crossed"]


class Boundary(NamedTuple):
    """One bound as the sign of a sum: it is crossed iff Σ g > 0 over the whole set."""

    g: NDArray[np.float64]
    """± (numerator − bound · denominator) of the sequences so far, shape [n_sequences]; the sign is
    + for a ``max`` and − for a ``min``."""
    denominator: NDArray[np.float64]
    """Denominator of the same sequences."""
    worst_kept: float | None
    """Largest g of an unseen sequence, assumed before the bound is judged as kept; None if g has no
    heavy tail on that side."""
    worst_crossed: float | None
    """Smallest g of an unseen sequence, assumed before the bound is judged as crossed."""


@dataclass
class Early:
    """The early verdicts reached so far while rows are measured; each is final."""

    thresholds: Sequence[Threshold]
    rule: Rule
    verdicts: dict[Threshold, Verdict] = field(default_factory=dict)
    """Early verdicts reached so far."""

    def look(self, measurement: Measurement) -> bool:
        """Judge the rows measured so far; return True once every threshold has a verdict.

        Args:
            measurement: The first rows in a random order that was fixed before measuring.
        """
        # All thresholds, decided ones too: α / bounds must not grow from look to look.
        bounds = sum(len(_bounds(threshold)) for threshold in self.thresholds)
        for threshold in self.thresholds:
            if threshold not in self.verdicts:
                verdict = early_verdict(measurement, threshold, self.rule, bounds)
                if verdict is not None:
                    self.verdicts[threshold] = verdict
        return len(self.verdicts) == len(set(self.thresholds))


def early_verdict(
    measurement: Measurement, threshold: Threshold, rule: Rule, bounds: int
) -> Verdict | None:
    """Return the verdict that the rows so far allow; None where more are needed.

    A sum that is not finite stays so: its threshold gets an error verdict at once. A threshold with
    a ``confidence`` concerns the interval on the whole set and waits for it. So does a threshold on
    a change: its g may have heavy tails of both signs, and allowing for them would cost most of
    what pairing gains.

    Args:
        measurement: Measurement of the first sequences, in random order.
        threshold: Threshold to judge.
        rule: Error probability and least number of sequences.
        bounds: Number of bounds that the gate has in all. The gate passes only if all bounds are
            kept, so each is tested for "kept" at level α; it fails if any is crossed, so each is
            tested for "crossed" at level α / bounds (Bonferroni).
    """
    target = threshold.target
    if threshold.confidence is not None or threshold.change:
        return None
    measured = metric(target.metric).columns & measurement.sums.keys()
    if not all(np.isfinite(measurement.sums[name]).all() for name in measured):
        return undefined(measurement, threshold, f"{target}: the sums of a sequence are not finite")
    measurement = with_whole_deviation(measurement)
    try:
        measurement.check_rows(target.metric, whole=False)
        status = _Judge(measurement, threshold, rule, bounds).status()
        if status is None:
            return None
        progress = Progress(measurement.n_sequences, measurement.n_whole, rule.alpha)
        value = estimate(measurement, target, whole=False)
        return Verdict(threshold, status, value, progress=progress)
    except UndefinedMetricError:
        return None  # later rows may define the metric; if not, the whole set gives the error


def with_whole_deviation(measurement: Measurement) -> Measurement:
    """Return the rows with the mean Σ‖x−μ‖² per sequence of the whole set, where it is known.

    A few tokens of enormous norm can make up nearly all of Σ‖x−μ‖²; rows without them say nothing
    about it. The sum does not depend on the SAE and is known before the SAE is measured, so that
    only Σ‖x−x̂‖² has to be estimated.
    """
    total, n = measurement.whole_sq_deviation, measurement.n_sequences
    if total is None:
        return measurement
    mean = np.full(n, total / measurement.n_whole)
    return replace(measurement, sums={**measurement.sums, "sq_deviation": mean})


def needs_mean(thresholds: Iterable[Threshold]) -> bool:
    """Return whether a threshold needs the mean activation μ before the first row is judged.

    μ costs a clean run over the whole token set.
    """
    names = {name for t in thresholds for name in metric(t.target.metric).columns}
    return any("mean activation" in ALL_COLUMNS[name].needs for name in names)


def needs_spread(thresholds: Iterable[Threshold]) -> bool:
    """Return whether a threshold needs `FiringSpread`: the share of dense latents does.

    Each latent is judged by the mean and variance of its firing counts over the sequences.
    """
    return any(metric(threshold.target.metric).firing_above for threshold in thresholds)


class _Judge(NamedTuple):
    """The rows so far, a threshold to judge them by, and how certain a verdict has to be."""

    measurement: Measurement
    threshold: Threshold
    rule: Rule
    bounds: int
    """Number of bounds that the gate has in all."""

    def status(self) -> Status | None:
        """Return the status that the rows so far allow; None where more are needed."""
        measurement, threshold = self.measurement, self.threshold
        definition, target = metric(threshold.target.metric), threshold.target
        if definition.firing_above is not None:
            return self._latents(definition.firing_above)
        needs_deviation = "sq_deviation" in definition.columns
        # The first rows may lack the few tokens of enormous norm that make up most of Σ‖x−μ‖², and
        # the exact sum is known of the whole set only.
        if needs_deviation and (measurement.whole_sq_deviation is None or target.slice is not None):
            return None
        if target.statistic == WORST:
            # One sequence past the bound decides; that none is past it only the whole set can show.
            value = estimate(measurement, target, whole=False).value
            return None if threshold.allows(value) else "fail"
        states: dict[str, list[State | None]] = {"bound": [], "warn": []}
        for kind, side, bound in _bounds(threshold):
            boundary = _boundary(measurement, threshold, side, bound)
            states[kind].append(self._state(boundary, abs(bound)))
        if "crossed" in states["bound"]:
            return "fail"
        if any(state != "kept" for state in states["bound"]):
            return None
        if "crossed" in states["warn"]:
            return "warn"
        return "pass" if all(state == "kept" for state in states["warn"]) else None

    def _latents(self, firing_above: float) -> Status | None:
        """Judge a share of latents by the lowest and highest value it can have on the whole set."""
        threshold = self.threshold
        # Of dead latents: the share can only fall as more tokens are measured.
        low, high = 0.0, estimate(self.measurement, threshold.target, whole=False).value
        if firing_above > 0:
            dense, sparse = self._dense_and_sparse(firing_above)
            low, high = float(dense.mean()), float(1 - sparse.mean())
        if not threshold.allows(low):
            return "fail"
        if not threshold.allows(high):
            return None
        if threshold.allows_quietly(high):
            return "pass"
        return None if threshold.allows_quietly(low) else "warn"

    def _dense_and_sparse(self, firing_above: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which latents surely fire more often than ``firing_above``, and which do not.

        One misjudged latent can reverse the verdict, so each is tested at level α / d_sae
        (Bonferroni).

        Returns:
            Two masks of shape [d_sae]; a latent that is not decided yet is in neither.
        """
        measurement, rule = self.measurement, self.rule
        spread, n, total = measurement.spread, measurement.sums["n_tokens"], measurement.n_whole
        d_sae = len(measurement.firings)
        if spread is None or len(n) < rule.minimum or measurement.whole:
            return np.zeros(d_sae, dtype=np.bool_), np.zeros(d_sae, dtype=np.bool_)
        # Per latent g_i = c_i − f·n_i: c_i firings on n_i tokens, f the frequency of dense latents.
        # Σ g and Σ g² suffice for the evidence, so that no table [n_sequences, d_sae] is needed.
        first = measurement.firings.astype(np.float64) - firing_above * math.fsum(n)  # [d_sae]
        second = (
            spread.square - 2 * firing_above * spread.by_tokens + firing_above**2 * math.fsum(n**2)
        )
        worst = _DENSE_TAIL * firing_above * float(n.mean())
        dense = evidence_of_moments(first, second, len(n), total, rule=rule)
        # The tail guard: also with one unseen sequence on which the latent fires very often.
        sparse = np.minimum(
            evidence_of_moments(-first, second, len(n), total, rule=rule),
            evidence_of_moments(-first - worst, second + worst**2, len(n) + 1, total, rule=rule),
        )
        # Too many dense latents fail the gate, which any of its bounds could: α / bounds for these
        # alone.
        needed = math.log(d_sae) - math.log(rule.alpha)
        return dense >= needed + math.log(self.bounds), sparse >= needed

    def _state(self, boundary: Boundary, scale: float) -> State | None:
        """Return whether a bound is surely kept or surely crossed; None where it is neither yet."""
        g, denominator, rule = boundary.g, boundary.denominator, self.rule
        total = self.measurement.n_whole
        # R ≤ t and Σ g ≤ 0 say the same only if Σ denominator is above 0.
        if not _is_precise(denominator, total):
            return None
        if abs(math.fsum(g)) <= NOISE * scale * math.fsum(np.abs(denominator)):
            return None  # another device could reverse the sign
        unseen = boundary.worst_crossed
        if bool(above_zero(g, total, alpha=rule.alpha / self.bounds, rule=rule, unseen=unseen)):
            return "crossed"
        unseen = None if boundary.worst_kept is None else -boundary.worst_kept
        is_kept = above_zero(-g, total, alpha=rule.alpha, rule=rule, unseen=unseen)
        return "kept" if bool(is_kept) else None


def _bounds(threshold: Threshold) -> list[tuple[str, Side, float]]:
    """Return the bounds that are set, as (``bound`` or ``warn``, side, value)."""
    candidates: list[tuple[str, Side, float | None]] = [
        ("bound", "max", threshold.max), ("bound", "min", threshold.min),
        ("warn", "max", threshold.warn_max), ("warn", "min", threshold.warn_min),
    ]  # fmt: skip
    return [(kind, side, bound) for kind, side, bound in candidates if bound is not None]


def _boundary(measurement: Measurement, threshold: Threshold, side: Side, bound: float) -> Boundary:
    """Write a bound as the sign of Σ g, with the worst g that an unseen sequence may still have."""
    target, definition = threshold.target, metric(threshold.target.metric)
    origin, tail = definition.tail_from, definition.tail
    if (share := level(target.statistic)) is not None:
        # p99 ≤ t iff at most 1 % of the tokens are above t; p99 ≥ t iff less than 99 % are below.
        ratio_terms = counts_past_bound(measurement, target, bound, side)
        side, bound = ("max", 1 - share) if side == "max" else ("max", share)
        # A sequence cannot have more than all of its tokens past the bound.
        origin, tail = 0.0, min(_QUANTILE_TAIL, (1 - bound) / bound)
    else:
        ratio_terms = terms(measurement, target)
    sign = 1.0 if side == "max" else -1.0
    g = sign * (ratio_terms.numerator - bound * ratio_terms.denominator)
    # A bound at the origin has no distance to scale the tail by.
    distance = abs(bound - origin) or abs(_ratio(ratio_terms) - origin)
    tail_end = tail * distance * float(ratio_terms.denominator.mean())
    # Losses and norms have their heavy tail above 0, scores below 1. An unseen sequence out there
    # can undo "kept" of a max on a loss or a min on a score, and "crossed" of the opposite bounds.
    # The denominator kl_random_error is heavy-tailed, too, and so can undo either.
    crosses = (side == "max") == (origin <= 0)
    both = "kl_random_error" in definition.denominator
    return Boundary(
        g,
        ratio_terms.denominator,
        max(tail_end, _UNSEEN_OVER_WORST * float(g.max())) if crosses or both else None,
        min(-tail_end, _UNSEEN_OVER_WORST * float(g.min())) if both or not crosses else None,
    )


def _is_precise(denominator: NDArray[np.float64], total: int) -> bool:
    """Return whether the mean denominator is positive and many standard errors away from 0.

    The standard error is the one without replacement: s/√n · √(1 − n/N).
    """
    n, mean = len(denominator), float(denominator.mean())
    if n < 2:
        return False
    error = float(denominator.std(ddof=1)) * math.sqrt(max(1 - n / total, 0) / n)
    return mean > 0 and mean >= _SURE_DENOMINATOR * error


def _ratio(sums: Terms) -> float:
    denominator = math.fsum(sums.denominator)
    return math.fsum(sums.numerator) / denominator if denominator else 0.0
