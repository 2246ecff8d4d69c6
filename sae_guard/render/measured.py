"""All metrics of a case, with and without thresholds → lines and rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseReport, MetricValue
from sae_guard.core.verdicts import Verdict
from sae_guard.render.numbers import half_width, number
from sae_guard.render.terminal_summary import half_interval, path_lines, title, verdict_words
from sae_guard.render.words import bounds, shown_value
from sae_guard.tables import table_lines

_TITLES = ("metric", "value", "± 95 %", "unit", "bound", "verdict")


def metric_table(report: CaseReport) -> Iterator[str]:
    """Write a title, a row for each metric, and a row for each other target of a threshold.

    Metrics are in the order of `core.metrics`. A metric without a value has the reason in its row.
    """
    yield title(report)
    yield from path_lines(report.provenance)
    rows = [
        _verdict_row(value) if isinstance(value, Verdict) else _value_row(value)
        for value in _values(report)
    ]
    yield from table_lines([_TITLES, *rows], right=(1, 2, 4), indent="  ")


def metric_rows(report: CaseReport) -> Iterator[dict[str, Any]]:
    """Return the same as rows of a table for other programs, by the names of its columns."""
    for value in _values(report):
        yield {
            "spec": report.case.spec_file,
            "name": report.case.document,
            "checkpoint": report.case.member,
            "metric": str(value.target),
            **_exported(value),
            "n_tokens": value.estimate.n_tokens if value.estimate else None,
            "n_sequences": value.estimate.n_sequences if value.estimate else None,
        }


def _values(report: CaseReport) -> Iterator[Verdict | MetricValue]:
    """Yield the verdict on each metric, or else its value; then the verdicts on other targets."""
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
    half = half_width(estimate.low, estimate.high)
    return (name, number(estimate.value), half, unit, "", "")


def _without_name(name: str, message: str, *, remedy: bool) -> str:
    """Return the reason of a missing value, without the name and formula that it starts with.

    Args:
        name: Name of the target.
        message: Reason with name and formula.
        remedy: True to keep what to do about it, which only matters if the metric has a bound.
    """
    reason = message.removeprefix(name).removeprefix(": ")
    if reason.startswith(" = "):
        return reason.partition(": ")[2]
    return (reason if remedy else reason.partition(": ")[0]).strip()


def _exported(value: Verdict | MetricValue) -> dict[str, Any]:
    estimate = asdict(value.estimate) if value.estimate else {}
    row = {name: estimate.get(name) for name in ("value", "low", "high", "confidence")}
    unit = METRICS[value.target.metric].unit
    if isinstance(value, MetricValue):
        none = dict.fromkeys(("min", "max", "headroom"))
        return {**row, "unit": unit, **none, "verdict": "", "message": value.undefined}
    threshold = value.threshold
    return {
        **row,
        "unit": "share" if threshold.relative else unit,
        "min": threshold.min,
        "max": threshold.max,
        "headroom": value.headroom,
        "verdict": value.status,
        "message": value.message,
    }
