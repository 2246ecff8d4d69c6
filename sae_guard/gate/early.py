"""Verdicts before the whole token set is measured: when to stop, and what is judged then."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sae_guard.core.comparison import Baseline
from sae_guard.core.early_verdicts import Early, needs_mean, needs_spread, with_whole_deviation
from sae_guard.core.measurement import Measurement
from sae_guard.core.report_json import from_plain, to_plain
from sae_guard.core.statistics.sequential import Rule
from sae_guard.core.targets import estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Verdict, judge
from sae_guard.errors import UndefinedMetricError
from sae_guard.gate.cases import Case
from sae_guard.gate.options import ALPHA, EarlyOptions
from sae_guard.specs import Spec


def alpha_for(options: EarlyOptions, spec: Spec) -> float | None:
    """Choose the chance that an early verdict differs; None where there is to be none."""
    # Every option of early verdicts implies them, whichever it is.
    if options.never or (options == EarlyOptions() and not spec.fast):
        return None
    return options.alpha or spec.alpha or ALPHA


def key(options: EarlyOptions, case: Case) -> str:
    """Make a key that is equal for cases that share one run; early runs stop by thresholds."""
    alpha = alpha_for(options, case.spec)
    if alpha is None:
        return case.key
    return hashlib.sha256(repr((case.key, case.thresholds, options, alpha)).encode()).hexdigest()


@dataclass
class Watch:
    """Looks at a measurement as it grows; each verdict is final when it is reached."""

    case: Case
    options: EarlyOptions
    alpha: float
    ended: str = ""
    """Which budget ended the run."""
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.early = Early(self.case.thresholds, Rule(self.alpha))

    @property
    def needs(self) -> dict[str, Any]:
        """What the engine has to keep from the first row on."""
        thresholds = self.case.thresholds
        return {"centred": needs_mean(thresholds), "spread": needs_spread(thresholds)}

    def __call__(self, measurement: Measurement) -> bool:
        """Say whether enough is measured."""
        enough = self.early.look(measurement)
        options, measured = self.options, measurement.n_sequences
        seconds = time.monotonic() - self._start
        if options.max_sequences is not None and measured >= options.max_sequences:
            self.ended = f"the limit of {options.max_sequences} sequences"
        elif options.max_seconds is not None and seconds > options.max_seconds:
            self.ended = f"the limit of {options.max_seconds:g} s"
        return bool(self.ended) or (enough and not options.audit)


@dataclass(frozen=True)
class Judged:
    """A measurement, perhaps of some sequences only, and the verdicts reached before its end."""

    measurement: Measurement
    early: Mapping[Threshold, Verdict]
    ended: str = ""
    audit: bool = False
    alpha: float = ALPHA

    def verdict(self, threshold: Threshold, baseline: Baseline | None = None) -> Verdict:
        """Judge on the whole set, if it was measured; else give the early verdict, or none."""
        early = self.early.get(threshold)
        if self.measurement.whole:
            verdict = judge(self.measurement, threshold, baseline)
            return replace(verdict, audit=_audited(early, verdict)) if self.audit else verdict
        return early or _undecided(self.measurement, threshold, self.ended, self.alpha)

    def to_plain(self) -> dict[str, Any]:
        """Take apart what stands beside the measurement, for `from_plain`."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        del plain["measurement"]
        return plain | {"early": to_plain(tuple[Verdict, ...], tuple(self.early.values()))}

    @classmethod
    def from_plain(cls, measurement: Measurement, plain: Mapping[str, Any]) -> Judged:
        """Build what another process took apart."""
        verdicts = from_plain(tuple[Verdict, ...], plain["early"], source="early verdicts")
        early = {verdict.threshold: verdict for verdict in verdicts}
        return cls(measurement, **{**plain, "early": early})


def _audited(early: Verdict | None, whole: Verdict) -> str:
    if early is None or early.progress is None:
        return "no early verdict"
    progress = early.progress
    words = f"{early.status} after {progress.measured:,} of {progress.total:,} sequences"
    return f"{words}, held" if early.status == whole.status else f"{words}, DID NOT HOLD"


def _undecided(measurement: Measurement, threshold: Threshold, ended: str, alpha: float) -> Verdict:
    value = None
    if not threshold.change:
        with suppress(UndefinedMetricError):
            value = estimate(with_whole_deviation(measurement), threshold.target, whole=False)
    progress = Progress(measurement.n_sequences, measurement.n_whole, alpha)
    why = f"{ended} ended the run after {progress.measured:,} of {progress.total:,} sequences"
    return Verdict(threshold, "undecided", value, message=why, progress=progress)
