"""All metrics of a case, those without a threshold too → lines and rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseReport, MetricValue
from sae_guard.core.verdicts import Verdict
from sae_guard.render.numbers import number
from sae_guard.render.terminal_summary import half_interval, path_lines, title, verdict_words
from sae_guard.render.words import bounds, shown_value
from sae_guard.tables import table_lines

_TITLES = ("metric", "value", "± 95 %", "unit", "bound", "verdict")


def metric_table(report: CaseReport) -> Iterator[str]:
    """Write a title and a row for each metric, in the order of the README, and then for each other
    target of a threshold; what is undefined says why.
    """
    yield title(report)
    yield from path_lines(report.provenance)
    rows = [
        _verdict_row(each) if isinstance(each, Verdict) else _value_row(each)
        for each in _values(report)
    ]
    yield from table_lines([_TITLES, *rows], right=(1, 2, 4), indent="  ")


def metric_rows(report: CaseReport) -> Iterator[dict[str, Any]]:
    """Give the same as rows of a table for other programs."""
    for each in _values(report):
        yield {
            "spec": report.case.spec_file,
            "name": report.case.document,
            "checkpoint": report.case.member,
            "metric": str(each.target),
            **_exported(each),
            "n_tokens": each.estimate.n_tokens if each.estimate else None,
            "n_sequences": each.estimate.n_sequences if each.estimate else None,
        }


def _values(report: CaseReport) -> Iterator[Verdict | MetricValue]:
    """The verdict on each metric, or else its value; then the verdicts on other targets."""
    verdicts = {verdict.target: verdict for verdict in report.verdicts}
    for value in report.metrics:
        yield verdicts.pop(value.target, value)
    yield from verdicts.values()


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    words = verdict_words(verdict)
    if verdict.estimate is None:
        words = f"{words}: {_without_name(str(verdict.target), verdict.message, remedy=True)}"
    short = bounds(verdict.threshold, short=True)
    value, half = shown_value(verdict), half_interval(verdict)
    return (str(verdict.target), value, half, verdict.unit, short, words)


def _value_row(value: MetricValue) -> tuple[str, ...]:
    name, unit, estimate = str(value.target), METRICS[value.target.metric].unit, value.estimate
    if estimate is None:
        return (name, "-", "", unit, "", _without_name(name, value.undefined, remedy=False))
    half = ""
    if estimate.low is not None and estimate.high is not None:
        half = f"{(estimate.high - estimate.low) / 2:.2g}"
    return (name, number(estimate.value), half, unit, "", "")


def _without_name(name: str, message: str, *, remedy: bool) -> str:
    """Why there is no value, without the metric's name and formula.

    Args:
        name: Of the target.
        message: With both.
        remedy: Whether to say what to do about it, which interests whoever bounds the metric.
    """
    why = message.removeprefix(name).removeprefix(": ")
    if why.startswith(" = "):
        return why.partition(": ")[2]
    return (why if remedy else why.partition(": ")[0]).strip()


def _exported(each: Verdict | MetricValue) -> dict[str, Any]:
    estimate = asdict(each.estimate) if each.estimate else {}
    row = {name: estimate.get(name) for name in ("value", "low", "high", "confidence")}
    unit = METRICS[each.target.metric].unit
    if isinstance(each, MetricValue):
        none = dict.fromkeys(("min", "max", "headroom"))
        return {**row, "unit": unit, **none, "verdict": "", "message": each.undefined}
    threshold = each.threshold
    return {
        **row,
        "unit": "share" if threshold.relative else unit,
        "min": threshold.min,
        "max": threshold.max,
        "headroom": each.headroom,
        "verdict": each.status,
        "message": each.message,
    }
