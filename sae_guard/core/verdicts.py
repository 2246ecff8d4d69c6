"""Threshold × measurement → verdict. A comparison is written so that NaN can never pass."""

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
    """How much of the token set had been measured when an early verdict was reached."""

    measured: int
    """Sequences, in the random order in which they are measured."""
    total: int
    """Sequences of the set."""
    alpha: float
    """Chance that the verdict is not that on the whole set."""


@dataclass(frozen=True)
class Verdict:
    """What a threshold says of a measurement."""

    threshold: Threshold
    status: Status
    estimate: Estimate | None = None
    cause: Cause | None = None
    message: str = ""
    """Why there is no verdict, for the statuses ``error`` and ``undecided``."""
    marginal: str = ""
    """Why another text, or another device, could say otherwise, where that is near."""
    progress: Progress | None = None
    """Where it is early: its estimate is of these sequences only, and not the metric."""
    audit: str = ""
    """Of a verdict on the whole set: what the early verdict was, and whether it holds."""
    change: Change | None = None
    """Of a threshold on a change: from where to where."""

    @property
    def target(self) -> Target:
        """What the threshold looks at."""
        return self.threshold.target

    @property
    def unit(self) -> str:
        """Unit of the value, and of the bounds; empty for a share of what the metric was."""
        return "" if self.threshold.relative else metric(self.target.metric).unit

    @property
    def value(self) -> float | None:
        """The estimate's value."""
        return self.estimate.value if self.estimate else None

    @property
    def headroom(self) -> float | None:
        """Distance of the value to its nearest bound, negative beyond it."""
        return self.threshold.headroom(self.estimate.value) if self.estimate else None

    @property
    def passes(self) -> bool:
        """Whether the release may go on: no other verdict is a pass."""
        threshold = self.threshold
        lenient = threshold.confidence is not None and threshold.on_undecided == "warn"
        return self.status in ("pass", "warn") or (self.status == "undecided" and lenient)


def judge(
    measurement: Measurement, threshold: Threshold, baseline: Baseline | None = None
) -> Verdict:
    """The verdict of ``threshold`` on ``measurement``: pass, warn, fail, or error with its cause.

    An undefined metric (NaN, missing rows, no tokens, a denominator near zero) is an error of the
    load when only the columns that the SAE produced are not finite, of the setup otherwise. So is a
    change since a baseline that cannot be compared; one that was measured on another device or by
    other versions of libraries passes with a warning.

    Args:
        measurement: What is judged.
        threshold: By which bounds.
        baseline: What thresholds on changes compare with.
    """
    verdict = _judge(measurement, threshold, baseline)
    noted = verdict.change is not None and verdict.change.noted
    return replace(verdict, status="warn") if noted and verdict.status == "pass" else verdict


def _judge(measurement: Measurement, threshold: Threshold, baseline: Baseline | None) -> Verdict:
    try:
        seen, moved = _seen(measurement, threshold, baseline, 0.95)
    except UndefinedMetricError as error:
        return undefined(measurement, threshold, str(error))
    if not math.isfinite(seen.value):
        return Verdict(threshold, "error", seen, "setup", f"{threshold.target} is {seen.value}")
    target, bound = threshold.target, threshold.max
    marginal = _marginal(threshold, seen, moved)
    if not threshold.change:
        if (few := too_few_tokens(measurement, target.metric, bound)) is not None:
            return Verdict(threshold, "error", cause="setup", message=few)
        marginal = marginal or marginal_latents(measurement, target.metric, bound)
    found = Verdict(threshold, "pass", seen, marginal=marginal, change=moved)
    if threshold.confidence is not None:
        confident, _ = _seen(measurement, threshold, baseline, threshold.confidence)
        if (why := _undecided(threshold, confident)) is not None:
            return replace(found, status="undecided", message=why)
    if not threshold.allows(seen.value):
        return replace(found, status="fail")
    return found if threshold.allows_quietly(seen.value) else replace(found, status="warn")


def _seen(
    measurement: Measurement, threshold: Threshold, baseline: Baseline | None, confidence: float
) -> tuple[Estimate, Change | None]:
    target = threshold.target
    if not threshold.change:
        return estimate(measurement, target, confidence=confidence), None
    if baseline is None:
        raise UndefinedMetricError(f"{target} needs a baseline, and none was given")
    return change(baseline, measurement, target, relative=threshold.relative, confidence=confidence)


def undefined(measurement: Measurement, threshold: Threshold, why: str) -> Verdict:
    """The error that a metric without a value is, with its cause."""
    cause: Cause = "load" if _only_the_sae_is_broken(measurement) else "setup"
    return Verdict(threshold, "error", cause=cause, message=why)


def _marginal(threshold: Threshold, estimate: Estimate, moved: Change | None) -> str:
    """Why the verdict is near to being another, if it is."""
    _, bound = threshold.nearest_bound(estimate.value)
    scale = max(abs(estimate.value), abs(bound))
    if moved is not None:  # of which the noise is that of what moved
        scale = 1.0 if threshold.relative else max(abs(moved.before), abs(moved.after))
    if abs(estimate.value - bound) <= NOISE * scale:
        return "within numeric noise"
    inside = (
        estimate.low is not None
        and estimate.high is not None
        and estimate.low <= bound <= estimate.high
    )
    return f"inside the {estimate.confidence:.0%} interval" if inside else ""


def _undecided(threshold: Threshold, estimate: Estimate) -> str | None:
    """Why the interval allows no verdict; None where it lies on one side of every bound."""
    asked = f"the {threshold.confidence:.12g} interval"
    if estimate.low is None or estimate.high is None:
        return f"{asked} is unknown: {estimate.n_sequences} sequences have none"
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
        f"{asked} {estimate.low:.4g} to {estimate.high:.4g} holds the bound {bound:.12g} with "
        f"{estimate.n_sequences:,} sequences; {more}"
    )


def _only_the_sae_is_broken(measurement: Measurement) -> bool:
    """Whether columns are not finite, and only such as another SAE would give other values of."""
    mean_known = bool(measurement.provenance.mean_sha256)
    broken = [
        ALL_COLUMNS[name]
        for name, sums in measurement.sums.items()
        if not all(map(math.isfinite, sums))
        # Of the first rows alone, what is about μ may not have been measured.
        and (mean_known or "mean activation" not in ALL_COLUMNS[name].needs)
    ]
    return bool(broken) and all(column.depends_on_sae for column in broken)


def too_few_tokens(measurement: Measurement, name: str, most: float | None) -> str | None:
    """Why the tokens do not show that more than ``most`` of the latents are dead; None if they do.

    A latent that is silent on n tokens may be rare and not dead. Of latents that fire with
    frequencies f, the expected number of those silent on n tokens that fire on the n next is
    Σ (1−f)ⁿ·(1−(1−f)ⁿ) ≤ Σ n·f·(1−f)ⁿ⁻¹, the expected number of those that fired exactly once
    (after Good 1953, Biometrika 40, 237; Good and Toulmin 1956, Biometrika 43, 45). So the latents
    that fired once bound what another such sample would wake, and where it could bring the share
    within the bound, there is no verdict yet. A share within it stays there: more tokens only wake.

    Args:
        measurement: Its firing counts.
        name: Of the metric; there is nothing to say of others than the share of silent latents.
        most: The bound.
    """
    if most is None or metric(name).firing_above != 0:
        return None
    firings, n = measurement.firings, measurement.n_tokens
    silent, once = int((firings == 0).sum()), int((firings == 1).sum())
    if silent / len(firings) <= most or (silent - once) / len(firings) > most:
        return None
    return (
        f"{name} needs {2 * n:,} scored tokens, {n:,} were measured: {silent:,} of "
        f"{len(firings):,} latents are silent, which is more than {most:.12g} of them, but "
        f"{once:,} fired only once, and as many silent ones may fire on as many tokens again: "
        "raise `sequences` to "
        f"{2 * measurement.n_sequences:,} in the spec"
    )


def marginal_latents(measurement: Measurement, name: str, most: float | None) -> str:
    """Why the share of dense latents is near to being another, if ``most`` is that near.

    A frequency f on n tokens has a standard error of √(f·(1−f)/n); latents within two of them of
    the frequency that counts as dense may be on its other side.
    """
    limit = metric(name).firing_above
    if most is None or not limit:
        return ""
    frequency = measurement.firings / measurement.n_tokens
    error = math.sqrt(limit * (1 - limit) / measurement.n_tokens)
    surely, perhaps = (float(np.mean(frequency > limit + step)) for step in (2 * error, -2 * error))
    if not surely <= most < perhaps:
        return ""
    near = round((perhaps - surely) * len(frequency))
    return f"within what {near:,} latents decide that fire on {limit:.0%} ± {2 * error:.2%}"
