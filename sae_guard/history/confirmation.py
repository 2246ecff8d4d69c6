"""The numbers of a record × what is measured again → which are confirmed. Pure.

Another device, or another version of a library, gives other last digits: a number is confirmed
within a tolerance, which is a share of it, or where it is near zero what rounding makes of zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sae_guard.history.record import MetricRow, Record, ThresholdRow
from sae_guard.history.verification import estimated, near, same
from sae_guard.measurement import Measurement
from sae_guard.metrics.table import METRICS
from sae_guard.verdicts import Threshold, judge
from sae_guard.views import Slice

TOLERANCE = 1e-4
"""Of the value."""
_FLOOR = 1e-6
"""Per token, in nats, or of a cosine, a ratio of lengths or the variance: the rounding of float32
logits and activations. Near zero, and where large numbers cancel, it is more than any share."""
_FLIPS = 2
"""Firings, or latents, that rounding may move over a threshold."""
_SINGLE = 100.0
"""How much more than a mean a single token, or sequence, may move."""
_RANGES: tuple[Literal["position", "entropy"], ...] = ("position", "entropy")
_LATENTS = {"l0"}
_OF_THE_ACTIVATIONS = {"sq_error", "sq_deviation"}
_NO_FLOOR = {"n_tokens", "l1"}
"""Columns that are exact, or of a sum of terms of one sign, of any scale."""


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
        Compared("n_sequences", record.n_sequences, measured.n_sequences, 0),
        Compared("n_tokens", record.n_tokens, measured.n_tokens, 0),
        _firings(rows, measured, tolerance),
    ]
    for name, row in record.metrics.items():
        found.append(_metric(name, row, rows, measured, tolerance))
    bounded = [_threshold(row, record, rows, measured, tolerance) for row in record.thresholds]
    seen = {each.name for each in found if each.ok}
    # Of plain metrics the value stands above already.
    return found + [each for each in bounded if each.name not in seen or not each.ok]


def _metric(
    name: str, row: MetricRow, rows: Measurement, measured: Measurement, tolerance: float
) -> Compared:
    estimate, why = estimated(measured, name)
    if estimate is None or row.value is None:
        undefined = row.value is None and estimate is None
        told = "" if undefined else f"it is undefined now: {why}" if why else "it was undefined"
        return Compared(name, row.value, estimate.value if estimate else None, 0, told)
    allowed = max(tolerance * abs(row.value), _floor(name, rows))
    ends = ((row.low, estimate.low), (row.high, estimate.high))
    apart = [pair for pair in ends if not near(*pair, allowed)]
    told = "" if not apart else f"its interval ended at {apart[0][0]}, and now at {apart[0][1]}"
    return Compared(name, row.value, estimate.value, allowed, told)


def _firings(rows: Measurement, measured: Measurement, tolerance: float) -> Compared:
    recorded, now = int(rows.firings.sum()), int(measured.firings.sum())
    allowed = max(tolerance * recorded, _FLIPS)
    told = ""
    if rows.firings.shape != measured.firings.shape:
        told = f"of {len(rows.firings)} latents, and now of {len(measured.firings)}"
    elif not (moved := int(np.abs(rows.firings - measured.firings).sum())) <= allowed:
        told = f"{moved:,} of them are on other latents"
    return Compared("firings", recorded, now, allowed, told)


def _threshold(
    row: ThresholdRow, record: Record, rows: Measurement, measured: Measurement, tolerance: float
) -> Compared:
    """The value that was judged, and whether the verdict is the same, or near to both."""
    try:
        threshold = _rebuilt(row)
    except ValueError:
        return Compared(row.metric, row.value, None, 0, "no such view is known")
    view = threshold.view
    plain = view.statistic == "mean" and view.slice is None
    verdict = judge(measured, threshold)
    value = None if verdict.estimate is None else verdict.estimate.value
    if row.value is None or value is None:
        return Compared(row.metric, row.value, value, 0, verdict.message or "it had no value")
    floor = _floor(view.metric, rows)
    allowed = max(tolerance * abs(row.value), floor if plain else _SINGLE * floor)
    bounds = (row.max, row.min, row.warn_max, row.warn_min)
    close = any(bound is not None and abs(row.value - bound) <= allowed for bound in bounds)
    told = ""
    if plain and not same(row.value, record.metrics[view.metric].value):
        told = "it was judged by another value than the metric's"
    elif not same(row.headroom, threshold.headroom(row.value)):
        told = f"its headroom is said to be {row.headroom}"
    elif verdict.status != row.verdict and not close:
        told = f"the verdict was {row.verdict}, and is {verdict.status}"
    return Compared(row.metric, row.value, value, allowed, told)


def _rebuilt(row: ThresholdRow) -> Threshold:
    """Raises `ValueError` where no threshold is written so."""
    metric, _, where = row.metric.partition("@")
    found = Threshold(
        metric, row.max, row.min, row.warn_max, row.warn_min, row.confidence, row.on_undecided,
        _slice(where) if where else None,
    )  # fmt: skip
    if (problem := found.view.problem()) is not None:
        raise ValueError(problem)
    return found


def _slice(text: str) -> Slice:
    by, _, what = text.partition("=")
    if by == "source":
        return Slice("source", glob=what)
    low, _, high = what.partition("..")
    for kind in _RANGES:
        if by == kind:
            return Slice(kind, float(low), float(high) if high else math.inf)
    raise ValueError(f"no slice by {by}")


def _floor(name: str, rows: Measurement) -> float:
    """What rounding moves the metric by at the most, whatever its value."""
    metric = METRICS[name]
    if metric.firing_above is not None:
        return _FLIPS / max(1, len(rows.firings))
    deviation = float(rows.sums["sq_deviation"].sum())

    def of(column: str) -> float:
        if column in _LATENTS:
            return _FLIPS
        if column in _NO_FLOOR:
            return 0.0
        return _FLOOR * (deviation if column in _OF_THE_ACTIVATIONS else rows.n_tokens)

    top = sum(abs(factor) * of(column) for column, factor in metric.numerator.items())
    bottom = sum(factor * rows.sums[column].sum() for column, factor in metric.denominator.items()
                 if column in rows.sums)  # fmt: skip
    floor = top / abs(bottom) if bottom else 0.0
    return floor if math.isfinite(floor) else 0.0
