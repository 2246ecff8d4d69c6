"""Compare the numbers of a record with a new measurement, to confirm each of them. No files here.

Another device, or another version of a library, changes the last digits. A number is confirmed if
the difference is within a tolerance relative to the number or, near zero, within a floor: the
rounding of float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import Measurement, TokenKL
from sae_guard.core.metrics import ALL_COLUMNS, METRICS
from sae_guard.core.targets import Target, estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.history.record import MetricRow, Record, ThresholdRow
from sae_guard.history.verification import estimate_or_reason, is_near, is_same

# Ten times what verdicts take for noise (`core.statistics.NOISE`).
TOLERANCE = 1e-4
"""Largest relative difference of a confirmed number."""
FLOOR = 1e-6
"""Rounding of float32 logits and activations, per token: in nats, in a cosine or ratio of lengths,
or as a share of the variance. Near zero, where large numbers cancel, it exceeds any relative
tolerance."""
_FLIPS = 2
"""Number of firings, or of latents, that rounding may move across a threshold."""
SINGLE = 100.0
"""Ratio of the floor of a single token or sequence to that of a mean."""


@dataclass(frozen=True)
class NumberCheck:
    """A number of the record and the same number measured again; None where it is undefined."""

    name: str
    recorded: float | None
    measured: float | None
    allowed: float
    """Largest allowed difference."""
    why: str = ""
    """Reason why the number is not confirmed, if it is another than the difference."""

    @property
    def difference(self) -> float | None:
        """Difference, measured − recorded; None if either is undefined."""
        if self.recorded is None or self.measured is None:
            return None
        return self.measured - self.recorded

    @property
    def ok(self) -> bool:
        """True if the number is confirmed; NaN never is."""
        if self.why:
            return False
        if self.recorded is None or self.measured is None:
            return self.recorded is None and self.measured is None
        return abs(self.measured - self.recorded) <= self.allowed


def confirm(
    record: Record, rows: Measurement, measured: Measurement, tolerance: float = TOLERANCE
) -> list[NumberCheck]:
    """Compare every number of a record with the same number of a new measurement.

    Args:
        record: A record without `inconsistencies`.
        rows: The recorded measurement, from the files beside the record.
        measured: New measurement of the same checkpoint on the same tokens.
        tolerance: Largest relative difference of a confirmed number.

    Returns:
        One comparison per number: counts, firings, metrics, and the values of thresholds that are
        not among these or whose verdict is not confirmed.
    """
    comparisons = [
        _count("n_sequences", rows.sequences, measured.sequences, record.n_sequences),
        _count("n_tokens", rows.sums["n_tokens"], measured.sums["n_tokens"], record.n_tokens),
        _firings(rows, measured, tolerance),
    ]
    for name, metric_row in (*record.metrics.items(), *record.views.items()):
        comparisons.append(_metric(name, metric_row, rows, measured, tolerance))
    confirmed = {comparison.name: comparison.ok for comparison in comparisons}
    for threshold_row in record.thresholds:
        comparison = _threshold(threshold_row, record, rows, measured, tolerance)
        # The value may be confirmed above, and the verdict on it wrong all the same.
        if comparison.name not in confirmed or (confirmed[comparison.name] and not comparison.ok):
            comparisons.append(comparison)
    return comparisons


def unverified_claims(record: Record) -> Iterator[str]:
    """Yield what a record says about other versions, which are not measured again."""
    baselines = {row.baseline for row in record.thresholds if row.change and row.baseline}
    for name in sorted(baselines):
        yield f"changes since {name} are by what the record says of it"
    if record.pareto is not None:
        yield f"pareto: {record.pareto.verdict} beside {record.pareto.records} other records"


def _count(
    name: str, recorded: NDArray[Any], measured: NDArray[Any], in_record: int
) -> NumberCheck:
    """Compare the sequences, or the number of tokens in each, exactly.

    Args:
        name: ``n_sequences`` or ``n_tokens``.
        recorded: Indices of the recorded sequences, or the number of tokens in each.
        measured: The same of the new measurement.
        in_record: Total according to the record.
    """
    total = len(measured) if name == "n_sequences" else int(measured.sum())
    equal = np.array_equal(recorded, measured)
    reason = "" if equal or in_record != total else "of other sequences"
    return NumberCheck(name, in_record, total, 0, reason)


def _metric(
    name: str, row: MetricRow, rows: Measurement, measured: Measurement, tolerance: float
) -> NumberCheck:
    try:
        target = Target.parse(name)
        exists = not target.change and target.problem() is None
    except ValueError:
        exists = False
    if not exists:
        return NumberCheck(name, row.value, None, 0, "no such target is known")
    estimate_now, reason = estimate_or_reason(measured, target)
    if estimate_now is None or row.value is None:
        if row.value is None and estimate_now is None:
            reason = ""  # undefined in both
        elif reason:
            reason = f"it is undefined now: {reason}"
        else:
            reason = "it was undefined"
        value = estimate_now.value if estimate_now else None
        return NumberCheck(name, row.value, value, 0, reason)
    allowed = _allowed(row.value, target, rows, tolerance)
    ends = ((row.low, estimate_now.low), (row.high, estimate_now.high))
    # The interval of a quantile ends at the values of single tokens: rounding may swap the token.
    compare_ends = target.statistic == "mean"
    apart = [pair for pair in ends if compare_ends and not is_near(*pair, allowed)]
    reason = "" if not apart else f"its interval ended at {apart[0][0]}, and now at {apart[0][1]}"
    return NumberCheck(name, row.value, estimate_now.value, allowed, reason)


def _firings(rows: Measurement, measured: Measurement, tolerance: float) -> NumberCheck:
    recorded, total = int(rows.firings.sum()), int(measured.firings.sum())
    allowed = max(tolerance * recorded, _FLIPS)
    reason = ""
    if rows.firings.shape != measured.firings.shape:
        reason = f"of {len(rows.firings)} latents, and now of {len(measured.firings)}"
    elif not (differing := int(np.abs(rows.firings - measured.firings).sum())) <= allowed:
        reason = f"{differing:,} of them differ"
    return NumberCheck("firings", recorded, total, allowed, reason)


def _threshold(
    row: ThresholdRow, record: Record, rows: Measurement, measured: Measurement, tolerance: float
) -> NumberCheck:
    """Compare the value that was judged, its headroom, and the verdict.

    Another verdict is accepted if rounding may have caused it: at a bound.
    """
    try:
        threshold = _to_threshold(row)
    except ValueError:
        return NumberCheck(row.metric, row.value, None, 0, "no such target is known")
    if row.change:
        return _change(row, threshold, rows, measured, tolerance)
    target = threshold.target
    verdict = judge(measured, threshold)
    value = None if verdict.estimate is None else verdict.estimate.value
    if row.value is None or value is None:
        return NumberCheck(row.metric, row.value, value, 0, verdict.message or "it had no value")
    allowed = _allowed(row.value, target, rows, tolerance)
    reason = ""
    metric_row = record.metrics.get(target.metric)
    if target.whole and not is_same(row.value, metric_row.value if metric_row else None):
        reason = "it was judged by another value than the metric's"
    elif not is_same(row.headroom, threshold.headroom(row.value)):
        reason = f"its headroom is said to be {row.headroom}"
    elif verdict.status != row.verdict and not _at_a_bound(
        row, allowed, *_interval_ends(measured, threshold)
    ):
        reason = f"the verdict was {row.verdict}, and is {verdict.status}"
    return NumberCheck(row.metric, row.value, value, allowed, reason)


def _change(
    row: ThresholdRow, threshold: Threshold, rows: Measurement, measured: Measurement,
    tolerance: float,
) -> NumberCheck:  # fmt: skip
    """Compare the change since the baseline, whose value is taken from the record."""
    target = threshold.target.itself
    estimate_now, reason = estimate_or_reason(measured, target)
    if row.value is None or row.before is None or estimate_now is None:
        return NumberCheck(row.metric, row.value, None, 0, reason or "from where is not said")
    scale = abs(row.before) if row.change == "share" else 1.0
    if not scale:
        return NumberCheck(row.metric, row.value, None, 0, "it is a share of 0")
    allowed = _allowed(estimate_now.value, target, rows, tolerance) / scale
    reason = ""
    passes = row.verdict in ("pass", "warn")
    if row.verdict != "undecided" and not _at_a_bound(row, allowed):
        within_bounds = threshold.allows(row.value)
        reason = (
            "" if within_bounds == passes else f"the verdict {row.verdict} does not follow from it"
        )
    change = (estimate_now.value - row.before) / scale
    return NumberCheck(row.metric, row.value, change, allowed, reason)


def _interval_ends(measured: Measurement, threshold: Threshold) -> tuple[float | None, ...]:
    """Return the ends of the interval that a threshold with a confidence judges by."""
    if threshold.confidence is None:
        return ()
    interval = estimate(measured, threshold.target, confidence=threshold.confidence)
    return interval.low, interval.high


def _at_a_bound(row: ThresholdRow, allowed: float, *ends: float | None) -> bool:
    """Return whether the value, or an end of its interval, is so near a bound that rounding counts.

    Then either verdict is right.
    """
    bounds = [b for b in (row.max, row.min, row.warn_max, row.warn_min) if b is not None]
    return any(is_near(value, bound, allowed) for value in (row.value, *ends) for bound in bounds)


def _to_threshold(row: ThresholdRow) -> Threshold:
    """Return the recorded threshold; raise `ValueError` if it is none of this version."""
    return Threshold(
        row.metric, row.max, row.min, row.warn_max, row.warn_min, row.confidence,
        row.on_undecided, relative=row.change == "share",
    )  # fmt: skip


def _allowed(value: float, target: Target, rows: Measurement, tolerance: float) -> float:
    """Return the largest allowed difference of a value, in the metric's unit."""
    floor = _floor(target.metric, rows)
    return max(tolerance * abs(value), floor if target.whole else SINGLE * floor)


def _floor(name: str, rows: Measurement) -> float:
    """Return the largest change of a metric by rounding, whatever its value, in its unit.

    For a ratio of sums, that of the numerator over the denominator.
    """
    metric = METRICS[name]
    if metric.firing_above is not None:  # a share of latents
        return _FLIPS / max(1, len(rows.firings))
    # By `Column.rounding`: largest change of the sum of a column.
    column_floors = {
        "per token": FLOOR * rows.n_tokens,
        "per variance": FLOOR * float(rows.sums["sq_deviation"].sum()),
        "firings": _FLIPS,
        "none": 0.0,
    }
    numerator = sum(
        abs(factor) * column_floors[ALL_COLUMNS[column].rounding]
        for column, factor in metric.numerator.items()
    )
    denominator = sum(
        factor * rows.sums[column].sum() for column, factor in metric.denominator.items()
        if column in rows.sums
    )  # fmt: skip
    floor = numerator / abs(denominator) if denominator else 0.0
    return floor if math.isfinite(floor) else 0.0


NAME = "token_kl"
"""`NumberCheck.name` of the KL of single tokens."""


def confirm_tokens(
    recorded: TokenKL, measured: TokenKL | None, tolerance: float = TOLERANCE
) -> NumberCheck:
    """Compare the KL of every scored token with that of a new measurement.

    Args:
        recorded: KL per token, from the file beside the record.
        measured: KL of the same checkpoint on the same tokens; None if only sums were measured.
        tolerance: Largest relative difference of a confirmed value; near zero, the floor of single
            tokens applies.

    Returns:
        A comparison of the number of tokens, with the first differing token as the reason.
    """
    n = len(recorded.kl)
    if measured is None:
        return NumberCheck(NAME, n, None, 0, "single tokens were not measured again")
    if not (
        np.array_equal(recorded.sequences, measured.sequences)
        and np.array_equal(recorded.positions, measured.positions)
    ):
        return NumberCheck(NAME, n, len(measured.kl), 0, "of other tokens")
    was, now = recorded.kl.astype(np.float64), measured.kl.astype(np.float64)
    with np.errstate(invalid="ignore"):
        allowed = np.maximum(tolerance * np.abs(was), SINGLE * FLOOR)
        confirmed = np.isfinite(was) & (np.abs(now - was) <= allowed)
    confirmed |= (now == was) | (np.isnan(now) & np.isnan(was))  # infinities and NaN stay such
    reason = ""
    if not confirmed.all():
        first = int(np.flatnonzero(~confirmed)[0])
        reason = (
            f"{int((~confirmed).sum()):,} differ; at sequence {recorded.sequences[first]}, "
            f"position {recorded.positions[first]} it was {was[first]:.6g}, and is {now[first]:.6g}"
        )
    return NumberCheck(NAME, n, n, 0, reason)
