"""`RunReport` → the lines that a run ends with. Pure: nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.controls import CHECKPOINT
from sae_guard.core.diagnosis import Spelling
from sae_guard.core.measurement import Provenance
from sae_guard.core.report import (
    CaseReport,
    ContractResult,
    ControlsResult,
    ParetoResult,
    RunReport,
)
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Verdict
from sae_guard.render.numbers import number
from sae_guard.render.pareto import not_compared, pareto_headline
from sae_guard.render.threshold_changes import loosened_line
from sae_guard.render.words import bounds, sample_words, shown_value
from sae_guard.tables import table_lines

_NOT_JUDGED_SHOWN = 5


def summary(
    report: RunReport, *, verbose: bool = False, spelling: Spelling | None = None
) -> Iterator[str]:
    """Write a block for each case, then what was not judged, not gated, and recorded.

    Args:
        report: Of the run.
        verbose: Whether to list checkpoints of specs that are not about them.
        spelling: Of the options that a remedy comes with.
    """
    for case in report.cases:
        yield from case_lines(case, spelling)
        yield ""
    yield from _not_judged(report)
    yield from _not_gated(report, verbose=verbose)
    yield from report.notes
    loosened = {case.case.spec: case.loosened for case in report.cases if case.loosened}
    for spec, changes in loosened.items():
        yield loosened_line(spec, changes)
    for warning in report.warnings:
        yield f"WARNING: {warning}"
    yield from _records(report)


def case_lines(report: CaseReport, spelling: Spelling | None = None) -> Iterator[str]:
    """Write a title, the load contract, the verdicts and what there is to know beside them."""
    yield title(report)
    yield from path_lines(report.provenance)
    yield from _contract(report.contracts)
    if report.verdicts:
        yield from _table(report.verdicts)
        yield from _since(report.verdicts)
        yield from _early(report.verdicts)
    if report.pareto is not None:
        yield from pareto_lines(report.pareto)
    yield from _diagnosis(report, spelling)
    if report.controls is not None:
        yield from _controls(report.case.member, report.controls)


def title(report: CaseReport) -> str:
    """Name the case and say how much was measured."""
    return str(report.case) + (f"  {sample_words(report.sample)}" if report.sample else "")


def path_lines(provenance: Provenance | None) -> Iterator[str]:
    """Say what is out of the ordinary in how it was measured, unless it was asked for."""
    paths = provenance.paths if provenance else {}
    because, clean_run = paths.get("because"), paths.get("clean run", "")
    if because not in (None, "asked for"):
        yield f"  the whole model ran for every number: {because}"
    if clean_run == "measured before":
        yield "  measured before, the same weights, tokens and code; without a cache it is run anew"
    elif clean_run.startswith("run, and not remembered"):
        yield f"  clean run: {clean_run}"


def pareto_lines(result: ParetoResult) -> Iterator[str]:
    """Write the verdict, and of a pass what it was not compared with; failures tell the rest."""
    word = result.status if result.status == "pass" else result.status.upper()
    if result.comparison is None:
        yield f"  {word}: pareto: no verdict ({result.cause} error): {result.message}"
        return
    yield f"  {word}: {pareto_headline(result.comparison)}"
    if result.status == "pass":
        yield from (f"    {line}" for line in not_compared(result.comparison))


def half_interval(verdict: Verdict) -> str:
    """Write half of the interval, where there is one."""
    estimate = verdict.estimate
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return _distance(verdict.threshold, (estimate.high - estimate.low) / 2, ".2g")


def verdict_words(verdict: Verdict) -> str:
    """Write the verdict, in capitals where it is no pass, and what is to be known of it."""
    word = verdict.status if verdict.status == "pass" else verdict.status.upper()
    near = verdict.marginal and verdict.status in ("pass", "warn", "fail")
    notes = ["marginal"] if near else []
    if verdict.progress is not None:
        notes.append(f"after {verdict.progress.measured:,}")
    if verdict.change is not None and verdict.change.noted:
        notes.append("; ".join(verdict.change.noted))
    if verdict.audit:
        notes.append(f"early: {verdict.audit}")
    return f"{word} ({'; '.join(notes)})" if notes else word


def _contract(parts: Sequence[ContractResult]) -> Iterator[str]:
    """Write the load contract on one line."""
    broken = [part.test for part in parts if part.status == "error" and part.cause == "load"]
    holding = sum(part.status == "pass" for part in parts)
    rest = len(parts) - len(broken) - holding
    if broken:
        yield f"  load contract BROKEN: {', '.join(broken)}; {holding} kept, {rest} not checked"
    elif parts:
        unknown = f", {rest} not checked" if rest else ""
        yield f"  load contract: {holding} of {len(parts)} kept{unknown}"


def _table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    rows = [("metric", "value", "± 95 %", "bound", "headroom", "verdict"), *map(_row, verdicts)]
    yield from table_lines(rows, right=(1, 2, 3, 4), indent="  ")


def _row(verdict: Verdict) -> tuple[str, ...]:
    headroom = verdict.headroom
    return (
        str(verdict.target),
        shown_value(verdict),
        half_interval(verdict),
        bounds(verdict.threshold, short=True),
        "-" if headroom is None else _distance(verdict.threshold, headroom, "+.3g"),
        verdict_words(verdict),
    )


def _distance(threshold: Threshold, value: float, digits: str) -> str:
    return f"{100 * value:{digits}}%" if threshold.relative else f"{value:{digits}}"


def _since(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Name the versions that the changes are from."""
    for baseline in dict.fromkeys(v.change.baseline for v in verdicts if v.change):
        yield f"  changes since {baseline}, on the same sequences"


def _early(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Say what an early verdict means, and why what is let through has none."""
    for verdict in verdicts:
        if verdict.status == "undecided" and verdict.passes:
            yield f"  {verdict.target} is undecided: {verdict.message}"
    progress = next((verdict.progress for verdict in verdicts if verdict.progress), None)
    if progress is not None:
        yield (
            f"  ~ estimates from the first sequences; the verdicts are those on all "
            f"{progress.total:,} but for a chance of {progress.alpha:g}"
        )


def _diagnosis(report: CaseReport, spelling: Spelling | None) -> Iterator[str]:
    """Say what is suspected of a checkpoint that passes; of others their failures tell."""
    if report.diagnosis and all(verdict.passes for verdict in report.verdicts):
        yield from (f"  {line}" for line in report.diagnosis.lines("WARNING", spelling))


def _controls(member: str, result: ControlsResult) -> Iterator[str]:
    """Write the checkpoint beside its controls, and where it is not better than they are."""
    if result.status == "error":
        yield f"  controls: no numbers ({result.cause} error): {result.message}"
        return
    columns = list(next(iter(result.rows.values())))
    rows = [("controls", *columns)]
    for name, row in result.rows.items():
        values = (row[column] for column in columns)
        label = member if name == CHECKPOINT else name
        rows.append((label, *("-" if value is None else number(value) for value in values)))
    yield from table_lines(rows, right=range(1, 1 + len(columns)), indent="  ")
    if result.message:
        yield f"  WARNING: {result.message}"


def _not_judged(report: RunReport) -> Iterator[str]:
    shown = report.not_judged[:_NOT_JUDGED_SHOWN]
    for each in shown:
        yield f"NO VERDICT: {each.case.node_id(each.test)} {each.reason}"
    if more := len(report.not_judged) - len(shown):
        yield f"NO VERDICT: and {more} more"


def _not_gated(report: RunReport, *, verbose: bool) -> Iterator[str]:
    """List specs without a checkpoint; those of other hook points and models if ``verbose``."""
    for each in report.not_gated:
        if each.member is None or verbose:
            member = f" [{each.member}]" if each.member else ""
            yield f"not gated: {each.spec}{member}: {each.reason}"


def _records(report: RunReport) -> Iterator[str]:
    for each in report.records:
        if each.path:
            yield f"recorded: {each.path}"
    for each in report.records:
        if not each.path:
            yield f"NOT RECORDED: {f'{each.case}: ' if each.case else ''}{each.refused}"
