"""The numbers of a record × what is measured again → which are confirmed. Pure.

Another device, or another version of a library, gives other last digits: a number is confirmed
within a tolerance, which is a share of it, or where it is near zero what rounding makes of zero.
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
from sae_guard.history.verification import estimated, near, same

TOLERANCE = 1e-4
"""Of the value."""
FLOOR = 1e-6
"""Per token, in nats, or of a cosine, a ratio of lengths or the variance: the rounding of float32
logits and activations. Near zero, and where large numbers cancel, it is more than any share."""
_FLIPS = 2
"""Firings, or latents, that rounding may move over a threshold."""
SINGLE = 100.0
"""How much more than a mean a single token, or sequence, may move."""


@dataclass(frozen=True)
class Compared:
    """A number of the record and the same one measured again; None where it is undefined."""

    name: str
    recorded: float | None
    measured: float | None
    allowed: float
    """What they may differ by."""
    why: str = ""
    """What differs, where it is not these two."""

    @property
    def difference(self) -> float | None:
        """Measured − recorded."""
        if self.recorded is None or self.measured is None:
            return None
        return self.measured - self.recorded

    @property
    def ok(self) -> bool:
        """Whether the number is confirmed: NaN never is."""
        if self.why:
            return False
        if self.recorded is None or self.measured is None:
            return self.recorded is None and self.measured is None
        return abs(self.measured - self.recorded) <= self.allowed


def confirm(
    record: Record, rows: Measurement, measured: Measurement, tolerance: float = TOLERANCE
) -> list[Compared]:
    """Every number of the record beside the one that was measured again.

    Args:
        record: Without `inconsistencies`.
        rows: What is kept beside it.
        measured: The same checkpoint on the same tokens.
        tolerance: Of each value.
    """
    found = [
        _count("n_sequences", rows.sequences, measured.sequences, record.n_sequences),
        _count("n_tokens", rows.sums["n_tokens"], measured.sums["n_tokens"], record.n_tokens),
        _firings(rows, measured, tolerance),
    ]
    for name, row in (*record.metrics.items(), *record.views.items()):
        found.append(_metric(name, row, rows, measured, tolerance))
    told = {each.name: each.ok for each in found}
    for bounded in record.thresholds:
        each = _threshold(bounded, record, rows, measured, tolerance)
        # Where the value stands above already, the verdict may be wrong all the same.
        if each.name not in told or (told[each.name] and not each.ok):
            found.append(each)
    return found


def taken_for_granted(record: Record) -> Iterator[str]:
    """What a record says of other versions, which are not measured again."""
    since = {row.baseline for row in record.thresholds if row.change and row.baseline}
    for name in sorted(since):
        yield f"changes since {name} are by what the record says of it"
    if record.pareto is not None:
        yield f"pareto: {record.pareto.verdict} beside {record.pareto.records} other records"


def _count(name: str, recorded: NDArray[Any], measured: NDArray[Any], said: int) -> Compared:
    """Of sequences, or of tokens in them: exactly the same ones."""
    now = len(measured) if name == "n_sequences" else int(measured.sum())
    same_ones = np.array_equal(recorded, measured)
    return Compared(name, said, now, 0, "" if same_ones or said != now else "of other sequences")


def _metric(
    name: str, row: MetricRow, rows: Measurement, measured: Measurement, tolerance: float
) -> Compared:
    try:
        target = Target.parse(name)
        known = not target.change and target.problem() is None
    except ValueError:
        known = False
    if not known:
        return Compared(name, row.value, None, 0, "no such target is known")
    found, why = estimated(measured, target)
    if found is None or row.value is None:
        undefined = row.value is None and found is None
        told = "" if undefined else f"it is undefined now: {why}" if why else "it was undefined"
        return Compared(name, row.value, found.value if found else None, 0, told)
    allowed = _allowed(row.value, target, rows, tolerance)
    ends = ((row.low, found.low), (row.high, found.high))
    # The interval of a quantile ends at single tokens, of which another is the next at a touch.
    mean = target.statistic == "mean"
    apart = [pair for pair in ends if mean and not near(*pair, allowed)]
    told = "" if not apart else f"its interval ended at {apart[0][0]}, and now at {apart[0][1]}"
    return Compared(name, row.value, found.value, allowed, told)


def _firings(rows: Measurement, measured: Measurement, tolerance: float) -> Compared:
    recorded, now = int(rows.firings.sum()), int(measured.firings.sum())
    allowed = max(tolerance * recorded, _FLIPS)
    told = ""
    if rows.firings.shape != measured.firings.shape:
        told = f"of {len(rows.firings)} latents, and now of {len(measured.firings)}"
    elif not (moved := int(np.abs(rows.firings - measured.firings).sum())) <= allowed:
        told = f"{moved:,} of them differ"
    return Compared("firings", recorded, now, allowed, told)


def _threshold(
    row: ThresholdRow, record: Record, rows: Measurement, measured: Measurement, tolerance: float
) -> Compared:
    """The value that was judged, and whether the verdict is the same, or near to both."""
    try:
        threshold = _rebuilt(row)
    except ValueError:
        return Compared(row.metric, row.value, None, 0, "no such target is known")
    if row.change:
        return _change(row, threshold, rows, measured, tolerance)
    target = threshold.target
    verdict = judge(measured, threshold)
    value = None if verdict.estimate is None else verdict.estimate.value
    if row.value is None or value is None:
        return Compared(row.metric, row.value, value, 0, verdict.message or "it had no value")
    allowed = _allowed(row.value, target, rows, tolerance)
    told = ""
    about = record.metrics.get(target.metric)
    if target.whole and not same(row.value, about.value if about else None):
        told = "it was judged by another value than the metric's"
    elif not same(row.headroom, threshold.headroom(row.value)):
        told = f"its headroom is said to be {row.headroom}"
    elif verdict.status != row.verdict and not _at_a_bound(
        row, allowed, *_ends(measured, threshold)
    ):
        told = f"the verdict was {row.verdict}, and is {verdict.status}"
    return Compared(row.metric, row.value, value, allowed, told)


def _change(
    row: ThresholdRow, threshold: Threshold, rows: Measurement, measured: Measurement,
    tolerance: float,
) -> Compared:  # fmt: skip
    """From what the record says of the baseline to what is measured now."""
    target = threshold.target.itself
    found, why = estimated(measured, target)
    if row.value is None or row.before is None or found is None:
        return Compared(row.metric, row.value, None, 0, why or "from where is not said")
    scale = abs(row.before) if row.change == "share" else 1.0
    if not scale:
        return Compared(row.metric, row.value, None, 0, "it is a share of 0")
    allowed = _allowed(found.value, target, rows, tolerance) / scale
    told = ""
    passes = row.verdict in ("pass", "warn")
    if row.verdict != "undecided" and not _at_a_bound(row, allowed):
        within = threshold.allows(row.value)
        told = "" if within == passes else f"the verdict {row.verdict} does not follow from it"
    return Compared(row.metric, row.value, (found.value - row.before) / scale, allowed, told)


def _ends(measured: Measurement, threshold: Threshold) -> tuple[float | None, ...]:
    """Of the interval that has to be clear of the bounds, where one has to."""
    if threshold.confidence is None:
        return ()
    found = estimate(measured, threshold.target, confidence=threshold.confidence)
    return found.low, found.high


def _at_a_bound(row: ThresholdRow, allowed: float, *ends: float | None) -> bool:
    """Whether rounding may bring the verdict over to another."""
    bounds = [b for b in (row.max, row.min, row.warn_max, row.warn_min) if b is not None]
    return any(near(value, bound, allowed) for value in (row.value, *ends) for bound in bounds)


def _rebuilt(row: ThresholdRow) -> Threshold:
    """Raises `ValueError` where no threshold is written so."""
    return Threshold(
        row.metric, row.max, row.min, row.warn_max, row.warn_min, row.confidence,
        row.on_undecided, relative=row.change == "share",
    )  # fmt: skip


def _allowed(value: float, target: Target, rows: Measurement, tolerance: float) -> float:
    floor = _floor(target.metric, rows)
    return max(tolerance * abs(value), floor if target.whole else SINGLE * floor)


def _floor(name: str, rows: Measurement) -> float:
    """What rounding moves the metric by at the most, whatever its value."""
    metric = METRICS[name]
    if metric.firing_above is not None:
        return _FLIPS / max(1, len(rows.firings))
    moved_by = {
        "per token": FLOOR * rows.n_tokens,
        "per variance": FLOOR * float(rows.sums["sq_deviation"].sum()),
        "firings": _FLIPS,
        "none": 0.0,
    }
    top = sum(
        abs(factor) * moved_by[ALL_COLUMNS[column].rounding]
        for column, factor in metric.numerator.items()
    )
    bottom = sum(factor * rows.sums[column].sum() for column, factor in metric.denominator.items()
                 if column in rows.sums)  # fmt: skip
    floor = top / abs(bottom) if bottom else 0.0
    return floor if math.isfinite(floor) else 0.0


NAME = "token_kl"


def confirm_tokens(
    recorded: TokenKL, measured: TokenKL | None, tolerance: float = TOLERANCE
) -> Compared:
    """How many tokens there are, and whether each has the KL that it had.

    Args:
        recorded: As kept beside the record.
        measured: The same checkpoint on the same tokens; None where single tokens were not kept.
        tolerance: Of each value. Near zero it is what rounding makes of single tokens.
    """
    n = len(recorded.kl)
    if measured is None:
        return Compared(NAME, n, None, 0, "single tokens were not measured again")
    if not (
        np.array_equal(recorded.sequences, measured.sequences)
        and np.array_equal(recorded.positions, measured.positions)
    ):
        return Compared(NAME, n, len(measured.kl), 0, "of other tokens")
    was, now = recorded.kl.astype(np.float64), measured.kl.astype(np.float64)
    with np.errstate(invalid="ignore"):
        allowed = np.maximum(tolerance * np.abs(was), SINGLE * FLOOR)
        near = np.isfinite(was) & (np.abs(now - was) <= allowed)
    near |= (now == was) | (np.isnan(now) & np.isnan(was))
    told = ""
    if not near.all():
        at = int(np.flatnonzero(~near)[0])
        told = (
            f"{int((~near).sum()):,} differ; at sequence {recorded.sequences[at]}, position "
            f"{recorded.positions[at]} it was {was[at]:.6g}, and is {now[at]:.6g}"
        )
    return Compared(NAME, n, n, 0, told)
