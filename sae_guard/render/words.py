"""What is said of one outcome: numbers, headlines, failures. Pure."""

from __future__ import annotations

from sae_guard.core.diagnosis import Diagnosis, Spelling
from sae_guard.core.pareto import ParetoVerdict
from sae_guard.core.report import Outcome
from sae_guard.core.worst_tokens import Worst
from sae_guard.render.excerpts import worst_lines
from sae_guard.render.numbers import number
from sae_guard.render.pareto import pareto_headline


def headline(outcome: Outcome) -> str:
    """Metric, value, bound, interval and tokens on one line; the reason for an error."""
    if outcome.kind == "pareto" and outcome.pareto:
        return pareto_headline(ParetoVerdict.of_json(outcome.pareto))
    if outcome.value is None or outcome.bound is None:
        if outcome.verdict == "undecided":
            return f"{outcome.metric} is undecided: {outcome.message}"
        return f"{outcome.metric}: no verdict ({outcome.cause} error): {outcome.message}"
    unit = f" {outcome.unit}" if outcome.unit and outcome.change != "share" else ""
    value = shown(outcome)
    if outcome.verdict == "undecided":
        bound = f"{outcome.side} {_bound(outcome, outcome.bound)}{unit}"
        return f"{outcome.metric} {value} against {bound} is undecided: {outcome.message}"
    relation = {
        ("max", True): ">", ("max", False): "<=",
        ("min", True): "<", ("min", False): ">=",
    }[outcome.side or "max", outcome.verdict == "fail"]  # fmt: skip
    line = f"{outcome.metric} {value} {relation} {_bound(outcome, outcome.bound)}"
    marginal = f"; marginal: the bound is {outcome.marginal}" if outcome.marginal else ""
    return f"{line}{unit} ({_moved(outcome)}{_interval(outcome)}{sample(outcome)}{marginal})"


def shown(outcome: Outcome) -> str:
    """The value; an estimate from some sequences, which is not the metric, is marked."""
    if outcome.value is None:
        return "-"
    mark = "~" if outcome.seen_sequences is not None else ""
    return mark + quantity(outcome, outcome.value, beside=outcome.bound)


def quantity(outcome: Outcome, value: float, *, beside: float | None = None) -> str:
    """A number of an outcome as it is read: of a change with its sign, a share in percent."""
    if outcome.change == "share":
        text = f"{number(100 * value, beside=None if beside is None else 100 * beside)}%"
    else:
        text = number(value, beside=beside)
    return f"+{text}" if outcome.change and value > 0 else text


def failure(
    outcome: Outcome,
    diagnosis: Diagnosis,
    worst: Worst | None = None,
    *,
    spelling: Spelling | None = None,
) -> str:
    """Write the text of a failing threshold: headline, where it is set, what is probably wrong
    (options by their ``spelling``), and on which text it shows most."""
    lines = [headline(outcome), f"{outcome.where}: {bounds(outcome)}"]
    if causes := list(diagnosis.lines("probable cause", spelling)):
        lines += ["", *causes]
    lines += worst_lines(worst) if worst is not None else ()
    return "\n".join(lines)


def bounds(outcome: Outcome, *, short: bool = False) -> str:
    """The bounds as the summary shows them, or, longer, as the spec has them."""
    values = {
        side: _bound(outcome, bound)
        for side, bound in (("min", outcome.min), ("max", outcome.max))
        if bound is not None
    }
    if short and len(values) == 2:
        return f"{values['min']}..{values['max']}"
    if short:
        return "".join(f"{'>=' if side == 'min' else '<='} {v}" for side, v in values.items())
    if outcome.change:
        keys = {"min": "max_decrease", "max": "max_increase"}
        told = (f"{keys[side]} {value.lstrip('+-')}" for side, value in values.items())
        return f"{outcome.metric.replace('.change', '', 1)}: {', '.join(told)}"
    return f"{outcome.metric}: {', '.join(f'{side} {value}' for side, value in values.items())}"


def p_value(p: float) -> str:
    """A chance, as far as it can be told from none."""
    return "p < 1e-99" if p < 1e-99 else f"p = {p:.2g}"


def _bound(outcome: Outcome, bound: float) -> str:
    if outcome.change == "share":
        return f"{'+' if bound > 0 else ''}{bound * 100:.12g}%"
    return f"{'+' if outcome.change and bound > 0 else ''}{bound:.12g}"


def _moved(outcome: Outcome) -> str:
    """Of a change, from where to where."""
    if outcome.before is None or outcome.after is None:
        return ""
    unit = f" {outcome.unit}" if outcome.unit else ""
    before = number(outcome.before)
    after = number(outcome.after, beside=outcome.before)
    chance = "" if outcome.p_value is None else f"{p_value(outcome.p_value)}, paired "
    return f"{before}{unit} at {outcome.baseline}, {after} now; {chance}"


def _interval(outcome: Outcome) -> str:
    if outcome.low is None or outcome.high is None:
        return "no interval, "
    low, high = (quantity(outcome, end) for end in (outcome.low, outcome.high))
    return f"95 % interval {low} to {high}, "


def sample(outcome: Outcome) -> str:
    of = "" if outcome.of_sequences is None else f"of {outcome.of_sequences:,} "
    return f"{outcome.n_tokens:,} tokens in {outcome.n_sequences:,} {of}sequences"
