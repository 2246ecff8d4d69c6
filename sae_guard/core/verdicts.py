"""Judge a measurement by a threshold: pass, warn, fail, undecided, or error.

Every comparison is written so that NaN can never pass. A verdict is exact on the token set that was
measured; `Verdict.marginal` says where other text or another device could reverse it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sae_guard.core.comparison import Baseline, Change, change
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import ALL_COLUMNS, metric
from sae_guard.core.statistics import NOISE, Estimate
from sae_guard.core.targets import Target, estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import Cause, UndefinedMetricError

Status = Literal["pass", "warn", "fail", "undecided", "error"]


@dataclass(frozen=True)
class Progress:
    """The part of the token set that an early verdict is based on."""

    measured: int
    """Number of sequences measured so far; they are measured in random order."""
    total: int
    """Number of sequences in the whole set."""
    alpha: float
    """Upper limit on the probability that the verdict on the whole set is another."""


@dataclass(frozen=True)
class Verdict:
    """The result of judging a measurement by one threshold."""

    threshold: Threshold
    status: Status
    estimate: Estimate | None = None
    cause: Cause | None = None
    message: str = ""
    """The reason why there is no verdict, for the statuses ``error`` and ``undecided``."""
    marginal: str = ""
    """The reason why other text or another device could reverse the verdict; empty if none."""
    progress: Progress | None = None
    """Set for an early verdict: its estimate covers these sequences only; it is not the metric."""
    audit: str = ""
    """Set for an audited verdict on the whole set: the early verdict, and whether it holds."""
    change: Change | None = None
    """Set for a threshold on a change: the values before and after."""

    @property
    def target(self) -> Target:
        """The quantity that the threshold bounds."""
        return self.threshold.target

    @property
    def unit(self) -> str:
        """Unit of the value and of the bounds; empty for a change relative to the old value."""
        return "" if self.threshold.relative else metric(self.target.metric).unit

    @property
    def value(self) -> float | None:
        """Value of the estimate; None without one."""
        return self.estimate.value if self.estimate else None

    @property
    def headroom(self) -> float | None:
        """Distance from the value to the nearest bound; negative past it."""
        return self.threshold.headroom(self.estimate.value) if self.estimate else None

    @property
    def passes(self) -> bool:
        """True where the release may go out: pass, warn, or undecided where that only warns."""
        threshold = self.threshold
        lenient = threshold.confidence is not None and threshold.on_undecided == "warn"
        return self.status in ("pass", "warn") or (self.status == "undecided" and lenient)


def judge(
    measurement: Measurement, threshold: Threshold, baseline: Baseline | None = None
) -> Verdict:
    """Return the verdict of ``threshold`` on ``measurement``.

    An undefined metric (NaN, missing rows, no tokens, a denominator near zero) gives the status
    ``error``. Its cause is ``load`` where the only non-finite columns are ones that depend on the
    SAE, and ``setup`` otherwise. A change since a baseline that is not comparable is an error too.
    A baseline from another device or other library versions turns a pass into a warning.

    Args:
        measurement: Measurement of the whole token set.
        threshold: Bounds to judge it by.
        baseline: Measurement of an earlier version; needed by thresholds on a change.

    Returns:
        The verdict. Undefined numbers are reported in it and do not raise.
    """
    verdict = _judge(measurement, threshold, baseline)
    other_environment = verdict.change is not None and verdict.change.noted
    if other_environment and verdict.status == "pass":
        return replace(verdict, status="warn")
    return verdict


def _judge(measurement: Measurement, threshold: Threshold, baseline: Baseline | None) -> Verdict:
    try:
        judged, since_baseline = _estimate(measurement, threshold, baseline, 0.95)
    except UndefinedMetricError as error:
        return undefined(measurement, threshold, str(error))
    if not math.isfinite(judged.value):
        message = f"{threshold.target} is {judged.value}, not a finite number"
        return Verdict(threshold, "error", judged, "setup", message)
    target, bound = threshold.target, threshold.max
    marginal = _marginal(threshold, judged, since_baseline)
    if not threshold.change:
        if (shortage := too_few_tokens(measurement, target.metric, bound)) is not None:
            return Verdict(threshold, "error", cause="setup", message=shortage)
        marginal = marginal or marginal_latents(measurement, target.metric, bound)
    verdict = Verdict(threshold, "pass", judged, marginal=marginal, change=since_baseline)
    if threshold.confidence is not None:
        confident, _ = _estimate(measurement, threshold, baseline, threshold.confidence)
        # Before the value is judged: an interval that holds the bound allows neither pass nor fail.
        if (reason := _undecided(threshold, confident)) is not None:
            return replace(verdict, status="undecided", message=reason)
    if not threshold.allows(judged.value):
        return replace(verdict, status="fail")
    return verdict if threshold.allows_quietly(judged.value) else replace(verdict, status="warn")


def _estimate(
    measurement: Measurement, threshold: Threshold, baseline: Baseline | None, confidence: float
) -> tuple[Estimate, Change | None]:
    """Return the estimate that the bounds apply to; for a change also the values it is between."""
    target = threshold.target
    if not threshold.change:
        return estimate(measurement, target, confidence=confidence), None
    if baseline is None:
        raise UndefinedMetricError(
            f"{target} is a change and needs a baseline: pass the measurement of an earlier version"
        )
    return change(baseline, measurement, target, relative=threshold.relative, confidence=confidence)


def undefined(measurement: Measurement, threshold: Threshold, message: str) -> Verdict:
    """Return an error verdict for a metric without a value; its cause follows from the columns."""
    cause: Cause = "load" if _only_the_sae_is_broken(measurement) else "setup"
    return Verdict(threshold, "error", cause=cause, message=message)


def _marginal(threshold: Threshold, estimate: Estimate, since_baseline: Change | None) -> str:
    """Return why other text or another device could reverse the verdict; empty if neither could."""
    _, bound = threshold.nearest_bound(estimate.value)
    scale = max(abs(estimate.value), abs(bound))
    if since_baseline is not None:
        # A difference carries the rounding of the two values it is taken between.
        before, after = abs(since_baseline.before), abs(since_baseline.after)
        scale = 1.0 if threshold.relative else max(before, after)
    if abs(estimate.value - bound) <= NOISE * scale:
        return "within numeric noise"
    inside = (
        estimate.low is not None
        and estimate.high is not None
        and estimate.low <= bound <= estimate.high
    )
    return f"inside the {estimate.confidence:.0%} interval" if inside else ""


def _undecided(threshold: Threshold, estimate: Estimate) -> str | None:
    """Return why the interval allows no verdict; None where it lies on one side of every bound."""
    interval = f"the {threshold.confidence:.12g} interval"
    if estimate.low is None or estimate.high is None:
        return f"{interval} is undefined on {estimate.n_sequences:,} sequences: measure more"
    if threshold.allows(estimate.low) and threshold.allows(estimate.high):
        return None
    outside = (
        (threshold.max is not None and estimate.low > threshold.max)
        or (threshold.min is not None and estimate.high < threshold.min)
    )  # fmt: skip
    if outside:
        return None
    _, bound = threshold.nearest_bound(estimate.value)
    needed = estimate.sequences_for(bound)
    more = "no number of them would do" if needed is None else f"about {needed:,} would do"
    return (
        f"{interval} {estimate.low:.4g} to {estimate.high:.4g} holds the bound {bound:.12g} with "
        f"{estimate.n_sequences:,} sequences; {more}"
    )


def _only_the_sae_is_broken(measurement: Measurement) -> bool:
    """Return whether some columns are not finite and all of these depend on the SAE."""
    mean_known = bool(measurement.provenance.mean_sha256)
    broken = [
        ALL_COLUMNS[name]
        for name, sums in measurement.sums.items()
        if not all(map(math.isfinite, sums))
        # An early measurement may lack μ; its NaN columns then say nothing about the SAE.
        and (mean_known or "mean activation" not in ALL_COLUMNS[name].needs)
    ]
    return bool(broken) and all(column.depends_on_sae for column in broken)


def too_few_tokens(measurement: Measurement, name: str, bound: float | None) -> str | None:
    """Return why the tokens do not suffice to show that too many latents are dead.

    A latent that is silent on n tokens may be rare instead of dead. If latents fire with
    frequencies f, the expected number of latents that are silent on n tokens but fire on the next n
    is

        Σ (1−f)ⁿ·(1−(1−f)ⁿ) ≤ Σ n·f·(1−f)ⁿ⁻¹,

    and the right side is the expected number of latents that fired exactly once (after Good 1953,
    Biometrika 40, 237; Good and Toulmin 1956, Biometrika 43, 45). So the number of latents that
    fired once bounds how many silent ones a second sample of n tokens would show to be alive. Where
    that many could bring the share of silent latents down to the bound, there is no verdict yet. A
    share within the bound stays within it: more tokens can only lower the share.

    Args:
        measurement: Measurement with the firing counts.
        name: Metric of the threshold; only ``dead_latents`` can need more tokens.
        bound: Largest share of dead latents that the threshold allows.

    Returns:
        The message of the error verdict; None where the tokens suffice.
    """
    if bound is None or metric(name).firing_above != 0:
        return None
    firings, n = measurement.firings, measurement.n_tokens
    silent, once = int((firings == 0).sum()), int((firings == 1).sum())
    if silent / len(firings) <= bound or (silent - once) / len(firings) > bound:
        return None
    return (
        f"{name} needs {2 * n:,} scored tokens, {n:,} were measured: {silent:,} of "
        f"{len(firings):,} latents are silent, which is more than {bound:.12g} of them, but "
        f"{once:,} fired only once, and as many silent ones may fire on as many tokens again: "
        "raise `sequences` to "
        f"{2 * measurement.n_sequences:,} in the spec"
    )


def marginal_latents(measurement: Measurement, name: str, bound: float | None) -> str:
    """Return why the verdict on the share of dense latents is marginal; empty if it is not.

    A firing frequency f on n tokens has the binomial standard error √(f·(1−f)/n). Latents within
    two standard errors of the frequency that counts as dense (10 %) may lie on its other side; the
    verdict is marginal if counting all or none of them as dense would reverse it.

    Args:
        measurement: Measurement with the firing counts.
        name: Metric of the threshold; only ``dense_latents`` can be marginal in this way.
        bound: Largest share of dense latents that the threshold allows.
    """
    limit = metric(name).firing_above
    if bound is None or not limit:
        return ""
    frequency = measurement.firings / measurement.n_tokens
    error = math.sqrt(limit * (1 - limit) / measurement.n_tokens)
    lowest, highest = (float(np.mean(frequency > limit + d)) for d in (2 * error, -2 * error))
    if not lowest <= bound < highest:
        return ""
    ambiguous = round((highest - lowest) * len(frequency))
    return f"within what {ambiguous:,} latents decide that fire on {limit:.0%} ± {2 * error:.2%}"
