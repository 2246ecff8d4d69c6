"""Early verdicts: when a measurement may stop before its end, and how it is judged then."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sae_guard.core.comparison import Baseline
from sae_guard.core.early_verdicts import Early, needs_mean, needs_spread, with_whole_deviation
from sae_guard.core.measurement import Measurement
from sae_guard.core.statistics.sequential import Rule
from sae_guard.core.targets import estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Verdict, judge
from sae_guard.errors import UndefinedMetricError
from sae_guard.gate.cases import Case
from sae_guard.gate.options import ALPHA, EarlyOptions
from sae_guard.specs import Spec


def alpha_for(options: EarlyOptions, spec: Spec) -> float | None:
    """Return the chance that an early verdict differs; None for a run without early verdicts."""
    # Any option of early verdicts turns them on.
    if options.never or (options == EarlyOptions() and not spec.fast):
        return None
    return options.alpha or spec.alpha or ALPHA


def key(options: EarlyOptions, case: Case) -> str:
    """Return a key that is equal for cases that share one measurement.

    An early run depends on the thresholds too: they decide where it stops.
    """
    alpha = alpha_for(options, case.spec)
    if alpha is None:
        return case.key
    return hashlib.sha256(repr((case.key, case.thresholds, options, alpha)).encode()).hexdigest()


@dataclass
class Watch:
    """Stops a measurement once its verdicts are decided, or a budget is spent.

    It looks at the measurement after each shard; an early verdict is final once it is reached.
    """

    case: Case
    options: EarlyOptions
    alpha: float
    ended: str = ""
    """Budget that ended the run; empty where none did."""
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.early = Early(self.case.thresholds, Rule(self.alpha))

    @property
    def needs(self) -> dict[str, Any]:
        """Sums that the engine has to keep from the first row on, as its keyword arguments."""
        thresholds = self.case.thresholds
        return {"centred": needs_mean(thresholds), "spread": needs_spread(thresholds)}

    def __call__(self, measurement: Measurement) -> bool:
        """Return whether the measurement may end."""
        decided = self.early.look(measurement)
        options, n_sequences = self.options, measurement.n_sequences
        seconds = time.monotonic() - self._start
        if options.max_sequences is not None and n_sequences >= options.max_sequences:
            self.ended = f"the limit of {options.max_sequences} sequences"
        elif options.max_seconds is not None and seconds > options.max_seconds:
            self.ended = f"the limit of {options.max_seconds:g} s"
        return bool(self.ended) or (decided and not options.audit)


@dataclass(frozen=True)
class Judged:
    """A measurement, perhaps of a part of the sequences, and its early verdicts."""

    measurement: Measurement
    early: Mapping[Threshold, Verdict]
    ended: str = ""
    """Budget that ended the run; empty where none did."""
    audit: bool = False
    """True where the run goes on to its end, to check the early verdicts."""
    alpha: float = ALPHA
    """Chance that an early verdict differs from that on the whole token set."""

    def verdict(self, threshold: Threshold, baseline: Baseline | None = None) -> Verdict:
        """Return the verdict on the whole token set; if that was not measured, the early verdict.

        A threshold without an early verdict is undecided then.
        """
        early = self.early.get(threshold)
        if self.measurement.whole:
            verdict = judge(self.measurement, threshold, baseline)
            return replace(verdict, audit=_audit_result(early, verdict)) if self.audit else verdict
        return early or _undecided(self.measurement, threshold, self.ended, self.alpha)


def _audit_result(early: Verdict | None, final: Verdict) -> str:
    if early is None or early.progress is None:
        return "no early verdict"
    progress = early.progress
    words = f"{early.status} after {progress.measured:,} of {progress.total:,} sequences"
    return f"{words}, held" if early.status == final.status else f"{words}, DID NOT HOLD"


def _undecided(measurement: Measurement, threshold: Threshold, ended: str, alpha: float) -> Verdict:
    value = None
    if not threshold.change:
        with suppress(UndefinedMetricError):  # the first rows may not define the metric
            value = estimate(with_whole_deviation(measurement), threshold.target, whole=False)
    progress = Progress(measurement.n_sequences, measurement.n_whole, alpha)
    message = f"{ended} ended the run after {progress.measured:,} of {progress.total:,} sequences"
    return Verdict(threshold, "undecided", value, message=message, progress=progress)
