"""Report of one test → its properties in JUnit XML: flat, numbers and words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sae_guard.core.metrics import metric
from sae_guard.core.report import CONTROLS, PARETO, CaseReport
from sae_guard.core.verdicts import Verdict

PREFIX = "sae_guard."


def junit_properties(report: CaseReport) -> list[tuple[str, str | int | float]]:
    """List the properties of the test that the report is about; empty values are left out."""
    case_properties: dict[str, Any] = {
        "spec": report.case.spec_file,
        "name": report.case.document,
        "checkpoint": report.case.member,
    }
    return [
        (PREFIX + name, _builtin(value))
        for name, value in [*case_properties.items(), *_test(report)]
        if value is not None and value != ""
    ]


def _test(report: CaseReport) -> Iterator[tuple[str, Any]]:
    for part in report.contracts:
        yield from _judged(part.test, "contract", part.status, part.cause, part.message)
    for verdict in report.verdicts:
        target = str(verdict.target)
        yield from _judged(target, "threshold", verdict.status, verdict.cause, verdict.message)
        yield from _numbers(verdict)
    for name, result in ((PARETO, report.pareto), (CONTROLS, report.controls)):
        if result is not None:
            yield from _judged(name, name, result.status, result.cause, result.message)


def _judged(test: str, kind: str, *result: str | None) -> Iterator[tuple[str, Any]]:
    yield "metric", test
    yield "kind", kind
    yield from zip(("verdict", "cause", "message"), result, strict=True)


def _numbers(verdict: Verdict) -> Iterator[tuple[str, Any]]:
    threshold, estimate = verdict.threshold, verdict.estimate
    yield "unit", metric(threshold.target.metric).unit
    for name in ("max", "min", "warn_max", "warn_min", "change", "where"):
        yield name, getattr(threshold, name)
    yield "on_undecided", threshold.on_undecided if threshold.confidence else ""
    yield "marginal", verdict.marginal
    yield "audit", verdict.audit
    if estimate is not None:
        for name in ("value", "low", "high", "confidence", "n_tokens", "n_sequences"):
            yield name, getattr(estimate, name)
        yield from zip(("side", "bound"), threshold.nearest_bound(estimate.value), strict=True)
        yield "headroom", verdict.headroom
    if verdict.progress is not None:
        yield "seen_sequences", verdict.progress.measured
        yield "of_sequences", verdict.progress.total
        yield "alpha", verdict.progress.alpha
    if verdict.change is not None:
        for name in ("before", "after", "p_value", "baseline"):
            yield name, getattr(verdict.change, name)
        yield "note", "; ".join(verdict.change.noted)


def _builtin(value: Any) -> str | int | float:
    """Return the value as a builtin: pytest-xdist loses a test whose report has anything else."""
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot cross processes")
