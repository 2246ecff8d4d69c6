"""What is said of one outcome: numbers, headlines, failures. Pure."""

from __future__ import annotations

from sae_guard.diagnosis import Diagnosis
from sae_guard.report.excerpts import worst_lines
from sae_guard.report.numbers import number
from sae_guard.wire import Outcome
from sae_guard.worst import Worst


def headline(outcome: Outcome) -> str:
    """Metric, value, bound, interval and tokens on one line; the reason for an error."""
    if outcome.value is None or outcome.bound is None:
        if outcome.verdict == "undecided":
            return f"{outcome.metric} is undecided: {outcome.message}"
        return f"{outcome.metric}: no verdict ({outcome.cause} error): {outcome.message}"
    unit = f" {outcome.unit}" if outcome.unit else ""
    value = shown(outcome)
    if outcome.verdict == "undecided":
        bound = f"{outcome.side} {outcome.bound:.12g}{unit}"
        return f"{outcome.metric} {value} against {bound} is undecided: {outcome.message}"
    relation = {
        ("max", True): ">", ("max", False): "<=",
        ("min", True): "<", ("min", False): ">=",
    }[outcome.side or "max", outcome.verdict == "fail"]  # fmt: skip
    line = f"{outcome.metric} {value} {relation} {outcome.bound:.12g}"
    marginal = f"; marginal: the bound is {outcome.marginal}" if outcome.marginal else ""
    return f"{line}{unit} ({_interval(outcome)}{sample(outcome)}{marginal})"


def shown(outcome: Outcome) -> str:
    """The value; an estimate from some sequences, which is not the metric, is marked."""
    if outcome.value is None:
        return "-"
    mark = "~" if outcome.seen_sequences is not None else ""
    return mark + number(outcome.value, beside=outcome.bound)


def failure(outcome: Outcome, diagnosis: Diagnosis, worst: Worst | None = None) -> str:
    """The text of a failing threshold: headline, where it is set, what is probably wrong, and on
    which text it shows most."""
    lines = [headline(outcome), f"{outcome.where}: {bounds(outcome)}"]
    if told := list(diagnosis.lines("probable cause")):
        lines += ["", *told]
    lines += worst_lines(worst) if worst is not None else ()
    return "\n".join(lines)


def bounds(outcome: Outcome, *, short: bool = False) -> str:
    if short and outcome.min is not None and outcome.max is not None:
        return f"{outcome.min:.12g}..{outcome.max:.12g}"
    signs = {"min": ">= ", "max": "<= "} if short else {"min": "min ", "max": "max "}
    values = {"min": outcome.min, "max": outcome.max}
    joined = ", ".join(f"{signs[s]}{v:.12g}" for s, v in values.items() if v is not None)
    return joined if short else f"{outcome.metric}: {joined}"


def _interval(outcome: Outcome) -> str:
    if outcome.low is None or outcome.high is None:
        return "no interval, "
    return f"95 % interval {number(outcome.low)} to {number(outcome.high)}, "


def sample(outcome: Outcome) -> str:
    of = "" if outcome.of_sequences is None else f"of {outcome.of_sequences:,} "
    return f"{outcome.n_tokens:,} tokens in {outcome.n_sequences:,} {of}sequences"
