"""Verdicts before all tokens were run: what was asked for, and what came of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_guard.core.comparison import Baseline
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.verdicts import Verdict
    from sae_guard.gate.cases import Case
    from sae_guard.specs import Spec

ALPHA = 0.001


@dataclass(frozen=True)
class EarlyOptions:
    """What is asked for; nothing is by default."""

    fast: bool = False
    alpha: float | None = None
    audit: bool = False
    max_seconds: float | None = None
    max_sequences: int | None = None

    def alpha_for(self, spec: Spec) -> float | None:
        """The chance that an early verdict may differ; None where there is to be none."""
        budget = self.max_seconds is not None or self.max_sequences is not None
        if not (self.fast or self.audit or budget or spec.fast or self.alpha is not None):
            return None
        return self.alpha or spec.alpha or ALPHA

    def key(self, case: Case) -> str:
        """Equal for cases that share one run; early ones stop by their thresholds."""
        alpha = self.alpha_for(case.spec)
        if alpha is None:
            return case.key
        parts = (case.key, case.thresholds, self, alpha)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass
class Watch:
    """Looks at a measurement as it grows; each verdict is final when it stands."""

    case: Case
    options: EarlyOptions
    alpha: float
    ended: str = ""
    """Which budget ended the run."""
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        from sae_guard.core.early_verdicts import Early
        from sae_guard.core.statistics.sequential import Rule

        self.early = Early(self.case.thresholds, Rule(self.alpha))

    @property
    def needs(self) -> dict[str, Any]:
        """What the engine has to keep from the first row on."""
        from sae_guard.core.early_verdicts import needs_mean, needs_spread

        thresholds = self.case.thresholds
        return {"centred": needs_mean(thresholds), "spread": needs_spread(thresholds)}

    def __call__(self, measurement: Measurement) -> bool:
        """Whether enough was seen."""
        enough = self.early.look(measurement)
        options, seen = self.options, measurement.n_sequences
        if options.max_sequences is not None and seen >= options.max_sequences:
            self.ended = f"--sae-max-sequences {options.max_sequences}"
        elif (
            options.max_seconds is not None and time.monotonic() - self._start > options.max_seconds
        ):
            self.ended = f"--sae-max-seconds {options.max_seconds:g}"
        return bool(self.ended) or (enough and not options.audit)


@dataclass(frozen=True)
class Judged:
    """A measurement, perhaps of some sequences only, and the verdicts that stood before its end."""

    measurement: Measurement
    early: Mapping[Threshold, Verdict]
    ended: str = ""
    audit: bool = False
    alpha: float = ALPHA

    def verdict(self, threshold: Threshold, baseline: Baseline | None = None) -> Verdict:
        """Of the whole set, if there is one; else the one that stood, or undecided."""
        from sae_guard.core.verdicts import judge

        early = self.early.get(threshold)
        if self.measurement.whole:
            verdict = judge(self.measurement, threshold, baseline)
            return replace(verdict, audit=_audited(early, verdict)) if self.audit else verdict
        return early or _undecided(self.measurement, threshold, self.ended, self.alpha)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes, beside the measurement."""
        verdicts = {}
        for threshold, verdict in self.early.items():
            parts = asdict(verdict)
            del parts["threshold"]
            verdicts[repr(threshold)] = parts
        beside = {"ended": self.ended, "audit": self.audit, "alpha": self.alpha}
        return {"early": verdicts, **beside}

    @classmethod
    def from_json(cls, measurement: Measurement, case: Case, told: Mapping[str, Any]) -> Judged:
        """What another process found of the case."""
        from sae_guard.core.statistics import Estimate
        from sae_guard.core.verdicts import Prefix, Verdict

        def verdict(threshold: Threshold, parts: Mapping[str, Any]) -> Verdict:
            estimate, prefix = parts["estimate"], parts["prefix"]
            made = {
                "estimate": Estimate(**estimate) if estimate else None,
                "prefix": Prefix(**prefix) if prefix else None,
            }
            return Verdict(threshold, **{**parts, **made})

        early = {
            threshold: verdict(threshold, told["early"][repr(threshold)])
            for threshold in case.thresholds
            if repr(threshold) in told["early"]
        }
        return cls(measurement, early, told["ended"], told["audit"], told["alpha"])


def _audited(early: Verdict | None, whole: Verdict) -> str:
    if early is None or early.prefix is None:
        return "no early verdict"
    said = f"{early.status} after {early.prefix.seen:,} of {early.prefix.of:,} sequences"
    return f"{said}, held" if early.status == whole.status else f"{said}, DID NOT HOLD"


def _undecided(measurement: Measurement, threshold: Threshold, ended: str, alpha: float) -> Verdict:
    from sae_guard.core.early_verdicts import with_whole_deviation
    from sae_guard.core.targets import estimate
    from sae_guard.core.verdicts import Prefix, Verdict
    from sae_guard.errors import UndefinedMetricError

    seen = None
    if not threshold.change:
        with suppress(UndefinedMetricError):
            seen = estimate(with_whole_deviation(measurement), threshold.target, whole=False)
    prefix = Prefix(measurement.n_sequences, measurement.n_whole, alpha)
    why = f"{ended} ended the run after {prefix.seen:,} of {prefix.of:,} sequences"
    return Verdict(threshold, "undecided", seen, message=why, prefix=prefix)
