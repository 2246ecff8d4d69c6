"""One verdict → its numbers, its headline, and the text of a failure. Pure."""

from __future__ import annotations

from sae_guard.core.diagnosis import Diagnosis, Spelling
from sae_guard.core.metrics import metric
from sae_guard.core.report import Sample
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Verdict
from sae_guard.core.worst_tokens import Worst
from sae_guard.render.excerpts import worst_lines
from sae_guard.render.numbers import number


def headline(verdict: Verdict) -> str:
    """Write target, value, bound, interval and sample size, or why there is no verdict."""
    target, estimate = verdict.target, verdict.estimate
    if verdict.status == "error":
        return f"{target}: no verdict ({verdict.cause} error): {verdict.message}"
    if estimate is None:
        return f"{target} is undecided: {verdict.message}"
    side, bound = verdict.threshold.nearest_bound(estimate.value)
    unit = f" {verdict.unit}" if verdict.unit else ""
    value = shown_value(verdict)
    if verdict.status == "undecided":
        against = f"{side} {_bound(verdict.threshold, bound)}{unit}"
        return f"{target} {value} against {against} is undecided: {verdict.message}"
    relation = {
        ("max", True): ">", ("max", False): "<=",
        ("min", True): "<", ("min", False): ">=",
    }[side, verdict.status == "fail"]  # fmt: skip
    line = f"{target} {value} {relation} {_bound(verdict.threshold, bound)}{unit}"
    marginal = f"; marginal: the bound is {verdict.marginal}" if verdict.marginal else ""
    return f"{line} ({_from_to(verdict)}{_interval(verdict)}{_sample(verdict)}{marginal})"


def failure(
    verdict: Verdict,
    diagnosis: Diagnosis,
    worst: Worst | None = None,
    *,
    spelling: Spelling | None = None,
) -> str:
    """Write the text of a failing threshold.

    Args:
        verdict: The verdict; its headline and the line of the spec come first.
        diagnosis: What is probably wrong with the checkpoint.
        worst: Tokens and sequences that the SAE changes most; None to leave them out.
        spelling: Writes the options of a remedy as the shell has them.
    """
    lines = [headline(verdict), f"{verdict.threshold.where}: {bounds(verdict.threshold)}"]
    if causes := list(diagnosis.lines("probable cause", spelling)):
        lines += ["", *causes]
    lines += worst_lines(worst) if worst is not None else ()
    return "\n".join(lines)


def shown_value(verdict: Verdict) -> str:
    """Write the value, after ``~`` if it is an early estimate and not yet the metric."""
    if verdict.estimate is None:
        return "-"
    value = verdict.estimate.value
    _, bound = verdict.threshold.nearest_bound(value)
    mark = "~" if verdict.progress is not None else ""
    return mark + quantity(verdict.threshold, value, beside=bound)


def quantity(threshold: Threshold, value: float, *, beside: float | None = None) -> str:
    """Write a number of a threshold: a change with its sign, a relative change in percent.

    Args:
        threshold: The threshold that the number is about.
        value: The number.
        beside: A bound that the text must not read as, unless the two are equal.
    """
    if threshold.relative:
        text = f"{number(100 * value, beside=None if beside is None else 100 * beside)}%"
    else:
        text = number(value, beside=beside)
    return f"+{text}" if threshold.change and value > 0 else text


def bounds(threshold: Threshold, *, short: bool = False) -> str:
    """Write the bounds of a threshold.

    Args:
        threshold: The threshold.
        short: True for the form of tables, such as ``<= 0.2`` or ``8..24``; False for that of the
            spec, such as ``kl: max 0.2``.
    """
    values = {
        side: _bound(threshold, bound)
        for side, bound in (("min", threshold.min), ("max", threshold.max))
        if bound is not None
    }
    if short and len(values) == 2:
        return f"{values['min']}..{values['max']}"
    if short:
        return "".join(f"{'>=' if side == 'min' else '<='} {v}" for side, v in values.items())
    if threshold.change:
        keys = {"min": "max_decrease", "max": "max_increase"}
        parts = (f"{keys[side]} {value.lstrip('+-')}" for side, value in values.items())
        return f"{threshold.target.itself}: {', '.join(parts)}"
    return f"{threshold.target}: {', '.join(f'{side} {value}' for side, value in values.items())}"


def p_value(p: float) -> str:
    """Write a p-value; the least one is ``p < 1e-99``."""
    return "p < 1e-99" if p < 1e-99 else f"p = {p:.2g}"


def sample_words(sample: Sample) -> str:
    """Write how many tokens and sequences were measured."""
    part = "" if sample.n_sequences == sample.n_whole else f"of {sample.n_whole:,} "
    return f"{sample.n_tokens:,} tokens in {sample.n_sequences:,} {part}sequences"


def _bound(threshold: Threshold, bound: float) -> str:
    plus = "+" if threshold.change and bound > 0 else ""
    return f"{plus}{bound * 100:.12g}%" if threshold.relative else f"{plus}{bound:.12g}"


def _from_to(verdict: Verdict) -> str:
    """Write the two values of a change and its p-value; empty for a threshold on a value."""
    change = verdict.change
    if change is None:
        return ""
    unit = metric(verdict.target.metric).unit
    unit = f" {unit}" if unit else ""
    before, after = number(change.before), number(change.after, beside=change.before)
    chance = "" if change.p_value is None else f"{p_value(change.p_value)}, paired "
    return f"{before}{unit} at {change.baseline}, {after} now; {chance}"


def _interval(verdict: Verdict) -> str:
    estimate = verdict.estimate
    if estimate is None or estimate.low is None or estimate.high is None:
        return "no interval, "
    low, high = (quantity(verdict.threshold, end) for end in (estimate.low, estimate.high))
    return f"95 % interval {low} to {high}, "


def _sample(verdict: Verdict) -> str:
    estimate, progress = verdict.estimate, verdict.progress
    assert estimate is not None
    total = progress.total if progress else estimate.n_sequences
    return sample_words(Sample(estimate.n_tokens, estimate.n_sequences, total))
