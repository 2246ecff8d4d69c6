"""Threshold × the first rows of a measurement → the verdict that stands already, if one does.

It is the verdict on the whole set but for a chance of at most α (`statistics.sequential`). A prefix
estimate is never the metric: only the verdict is given early.
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
from sae_guard.core.targets import WORST, Terms, beyond, estimate, level, terms
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Status, Verdict, undefined
from sae_guard.errors import UndefinedMetricError

_SURE_DENOMINATOR = 10.0
"""Means over their standard error that a denominator has to be before its ratio is looked at."""
_SEEN_WORST = 1.5
"""Times the worst sequence that was seen: what may still come."""
_QUANTILE_TAIL = 12.5
_DENSE_TAIL = 5.0
"""Of one latent: how often it may fire on a sequence that was not seen, in times of the level."""

State = Literal["kept", "crossed"]


class Boundary(NamedTuple):
    """One bound as the sign of a sum: it is crossed iff Σ g > 0 over the whole set."""

    g: NDArray[np.float64]
    denominator: NDArray[np.float64]
    worst_kept: float | None
    """g of the worst sequence that may come where the bound seems kept; None if there is no tail
    on that side."""
    worst_crossed: float | None
    """The same where it seems crossed."""


@dataclass
class Early:
    """Verdicts as they come to stand while rows are measured; each is final when it does."""

    thresholds: Sequence[Threshold]
    rule: Rule
    verdicts: dict[Threshold, Verdict] = field(default_factory=dict)
    """Those that stand."""

    def look(self, measurement: Measurement) -> bool:
        """Take a look at the rows so far; whether every verdict stands by now.

        The rows are the first ones in a random order that does not depend on what they give.
        """
        bounds = sum(len(_bounds(threshold)) for threshold in self.thresholds)
        for threshold in self.thresholds:
            if threshold not in self.verdicts:
                found = stands(measurement, threshold, self.rule, bounds)
                if found is not None:
                    self.verdicts[threshold] = found
        return len(self.verdicts) == len(set(self.thresholds))


def stands(
    measurement: Measurement, threshold: Threshold, rule: Rule, bounds: int
) -> Verdict | None:
    """The verdict that the rows so far allow; None where more are needed.

    Args:
        measurement: Of some of the sequences.
        threshold: Whose verdict is asked for.
        rule: How sure it has to be.
        bounds: How many the gate has in all. It passes if all are kept, each of which is looked at
            with α; it fails if one is crossed, so that each is looked at with α over their number.

    A sum that is not finite stays so: that verdict stands at once, and is an error. Thresholds with
    a ``confidence`` are about the interval of the whole set and wait for it. So do those on
    changes: a heavy tail of either sign would have to be reckoned with, at the cost of most of what
    pairing gains.
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
        status = _status(measurement, threshold, rule, bounds)
        if status is None:
            return None
        progress = Progress(measurement.n_sequences, measurement.n_whole, rule.alpha)
        value = estimate(measurement, target, whole=False)
        return Verdict(threshold, status, value, progress=progress)
    except UndefinedMetricError:
        return None  # tokens and denominators may come; where they do not, the whole set tells


def with_whole_deviation(measurement: Measurement) -> Measurement:
    """The first rows, each with the mean deviation from μ of the whole set, where that is known.

    A few tokens of enormous norm can be nearly all of Σ‖x−μ‖²: rows without them tell nothing of
    it. It does not depend on the SAE and is known beforehand, so only the errors are estimated.
    """
    whole, n = measurement.whole_sq_deviation, measurement.n_sequences
    if whole is None:
        return measurement
    each = np.full(n, whole / measurement.n_whole)
    return replace(measurement, sums={**measurement.sums, "sq_deviation": each})


def needs_mean(thresholds: Iterable[Threshold]) -> bool:
    """Whether μ, which takes a run over the whole set, has to be known from the first row on."""
    names = {name for t in thresholds for name in metric(t.target.metric).columns}
    return any("mean activation" in ALL_COLUMNS[name].needs for name in names)


def needs_spread(thresholds: Iterable[Threshold]) -> bool:
    """Whether it matters how evenly latents fire on the sequences."""
    return any(metric(threshold.target.metric).firing_above for threshold in thresholds)


def _status(
    measurement: Measurement, threshold: Threshold, rule: Rule, bounds: int
) -> Status | None:
    chosen, target = metric(threshold.target.metric), threshold.target
    if chosen.firing_above is not None:
        return _latents(measurement, threshold, chosen.firing_above, rule, bounds)
    deviates = "sq_deviation" in chosen.columns
    if deviates and (measurement.whole_sq_deviation is None or target.slice is not None):
        return None
    if target.statistic == WORST:
        # One sequence past the bound is enough, and none is ever the last.
        value = estimate(measurement, target, whole=False).value
        return None if threshold.allows(value) else "fail"
    states: dict[str, list[State | None]] = {"bound": [], "warn": []}
    for kind, side, bound in _bounds(threshold):
        boundary = _boundary(measurement, threshold, side, bound)
        states[kind].append(_state(boundary, measurement.n_whole, rule, bounds, abs(bound)))
    if "crossed" in states["bound"]:
        return "fail"
    if any(state != "kept" for state in states["bound"]):
        return None
    if "crossed" in states["warn"]:
        return "warn"
    return "pass" if all(state == "kept" for state in states["warn"]) else None


def _bounds(threshold: Threshold) -> list[tuple[str, Side, float]]:
    given: list[tuple[str, Side, float | None]] = [
        ("bound", "max", threshold.max), ("bound", "min", threshold.min),
        ("warn", "max", threshold.warn_max), ("warn", "min", threshold.warn_min),
    ]  # fmt: skip
    return [(kind, side, bound) for kind, side, bound in given if bound is not None]


def _latents(
    measurement: Measurement, threshold: Threshold, firing_above: float, rule: Rule, bounds: int
) -> Status | None:
    """By the least and the largest share that the whole set can have."""
    low, high = 0.0, estimate(measurement, threshold.target, whole=False).value
    if firing_above > 0:
        dense, sparse = _dense_and_sparse(measurement, firing_above, rule, bounds)
        low, high = float(dense.mean()), float(1 - sparse.mean())
    if not threshold.allows(low):
        return "fail"
    if not threshold.allows(high):
        return None
    if threshold.allows_quietly(high):
        return "pass"
    return None if threshold.allows_quietly(low) else "warn"


def _dense_and_sparse(
    measurement: Measurement, firing_above: float, rule: Rule, bounds: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The latents that fire more often than this, and those that do not, each as far as is sure.

    One latent on the wrong side may be one too many: each is looked at with α over their number.
    """
    spread, n, total = measurement.spread, measurement.sums["n_tokens"], measurement.n_whole
    d_sae = len(measurement.firings)
    if spread is None or len(n) < rule.minimum or measurement.whole:
        return np.zeros(d_sae, dtype=np.bool_), np.zeros(d_sae, dtype=np.bool_)
    # g = c − f·n of each sequence, by its first two moments.
    first = measurement.firings.astype(np.float64) - firing_above * math.fsum(n)
    second = spread.square - 2 * firing_above * spread.by_tokens + firing_above**2 * math.fsum(n**2)
    worst = _DENSE_TAIL * firing_above * float(n.mean())
    dense = evidence_of_moments(first, second, len(n), total, rule=rule)
    sparse = np.minimum(
        evidence_of_moments(-first, second, len(n), total, rule=rule),
        evidence_of_moments(-first - worst, second + worst**2, len(n) + 1, total, rule=rule),
    )
    needed = math.log(d_sae) - math.log(rule.alpha)
    return dense >= needed + math.log(bounds), sparse >= needed


def _boundary(measurement: Measurement, threshold: Threshold, side: Side, bound: float) -> Boundary:
    target, chosen = threshold.target, metric(threshold.target.metric)
    origin, tail = chosen.tail_from, chosen.tail
    if (share := level(target.statistic)) is not None:
        # p99 ≤ t iff at most 1 % of the tokens are above t; p99 ≥ t iff less than 99 % are below.
        found = beyond(measurement, target, bound, side)
        side, bound = ("max", 1 - share) if side == "max" else ("max", share)
        origin, tail = 0.0, min(_QUANTILE_TAIL, (1 - bound) / bound)
    else:
        found = terms(measurement, target)
    sign = 1.0 if side == "max" else -1.0
    g = sign * (found.numerator - bound * found.denominator)
    distance = abs(bound - origin) or abs(_ratio(found) - origin)
    far = tail * distance * float(found.denominator.mean())
    # The tail leads above 0 and below 1: towards what crosses a max of the first kind. A heavy one
    # of the denominator leads the other way.
    crosses, both = (side == "max") == (origin <= 0), "kl_random_error" in chosen.denominator
    return Boundary(
        g,
        found.denominator,
        max(far, _SEEN_WORST * float(g.max())) if crosses or both else None,
        min(-far, _SEEN_WORST * float(g.min())) if both or not crosses else None,
    )


def _state(boundary: Boundary, total: int, rule: Rule, bounds: int, scale: float) -> State | None:
    g, denominator = boundary.g, boundary.denominator
    if not _is_sure(denominator, total):
        return None
    if abs(math.fsum(g)) <= NOISE * scale * math.fsum(np.abs(denominator)):
        return None  # within what devices differ by
    below = boundary.worst_crossed
    if bool(above_zero(g, total, alpha=rule.alpha / bounds, rule=rule, unseen=below)):
        return "crossed"
    above = None if boundary.worst_kept is None else -boundary.worst_kept
    kept = above_zero(-g, total, alpha=rule.alpha, rule=rule, unseen=above)
    return "kept" if bool(kept) else None


def _is_sure(denominator: NDArray[np.float64], total: int) -> bool:
    n, mean = len(denominator), float(denominator.mean())
    if n < 2:
        return False
    error = float(denominator.std(ddof=1)) * math.sqrt(max(1 - n / total, 0) / n)
    return mean > 0 and mean >= _SURE_DENOMINATOR * error


def _ratio(found: Terms) -> float:
    bottom = math.fsum(found.denominator)
    return math.fsum(found.numerator) / bottom if bottom else 0.0
