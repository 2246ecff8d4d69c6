"""`RunReport` → the lines that a run ends with. Pure: nothing is written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sae_guard.core.controls import CHECKPOINT
from sae_guard.core.diagnosis import Spelling
from sae_guard.core.measurement import Provenance
from sae_guard.core.report import (
    CONTROLS,
    PARETO,
    CaseRef,
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

_MOST_NOT_JUDGED = 5
"""Number of tests without a verdict that are listed; the others are counted."""


def summary(
    report: RunReport, *, verbose: bool = False, spelling: Spelling | None = None
) -> Iterator[str]:
    """Write a block for each case, then what was not judged, not gated, and recorded.

    Cases that could not be measured come first.

    Args:
        report: Report of the run.
        verbose: True to list also the checkpoints that a spec does not gate.
        spelling: Writes the options of a remedy as the shell has them.
    """
    for case in sorted(report.cases, key=lambda case: _unmeasured(case) is None):
        yield from case_lines(case, spelling)
        yield ""
    for problem in report.incomplete:
        yield f"INCOMPLETE: {problem.member} {problem.reason}"
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
    """Write a title, the load contract, the verdicts, and remarks on how they were measured.

    A case that could not be measured has the reason as its title. Only tests that have no verdict
    for a reason of their own are listed below it.
    """
    unmeasured = _unmeasured(report)
    if unmeasured is None:
        yield title(report)
    else:
        yield from _unmeasured_lines(report.case, unmeasured)
        report = _without_tests(report, unmeasured.tests)
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
    """Write the name of the case and how much of it was measured."""
    return str(report.case) + (f"  {sample_words(report.sample)}" if report.sample else "")


@dataclass(frozen=True)
class _Unmeasured:
    """The reason why a case could not be measured, and the tests that it concerns."""

    reason: str
    tests: frozenset[str]
    """Tests that have no verdict for this reason."""
    n_not_run: int
    """Number of these, without the parts of the load contract that were checked and are broken."""


def _unmeasured(report: CaseReport) -> _Unmeasured | None:
    """Return why the case could not be measured; None if it was, or if that is not known."""
    errors = report.errors
    contracts = {part.test for part in report.contracts}
    judged = report.statuses.keys() - contracts
    if report.sample is not None or not judged or judged - errors.keys():
        return None
    # Thresholds on changes and `pareto` can lack their baseline; other thresholds are without a
    # verdict only because nothing was measured.
    reasons = [v.message for v in report.verdicts if not v.target.change]
    if not reasons:
        reasons = [reason for reason, n in Counter(errors.values()).items() if n > 1]
    if not reasons:
        return None
    tests = frozenset(test for test, message in errors.items() if message == reasons[0])
    broken = {part.test for part in report.contracts if _is_broken(part)}
    return _Unmeasured(reasons[0], tests, len(tests - broken))


def _unmeasured_lines(case: CaseRef, unmeasured: _Unmeasured) -> Iterator[str]:
    n = unmeasured.n_not_run
    first, *rest = unmeasured.reason.rstrip(". \n").splitlines() or [""]
    lines = [f"NOT MEASURED {case}: {first}", *(f"  {line}" for line in rest)]
    lines[-1] += f"; {n} {'check' if n == 1 else 'checks'} not run"
    yield from lines


def _without_tests(report: CaseReport, tests: frozenset[str]) -> CaseReport:
    """Leave out results of tests, but for the load contract, which has one line anyway.

    A diagnosis is of a measurement, so there is none either.
    """
    return replace(
        report,
        diagnosis=None,
        verdicts=tuple(v for v in report.verdicts if str(v.target) not in tests),
        pareto=None if PARETO in tests else report.pareto,
        controls=None if CONTROLS in tests else report.controls,
    )


def path_lines(provenance: Provenance | None) -> Iterator[str]:
    """Write what was unusual about the measurement; what the user asked for is not unusual."""
    paths = provenance.paths if provenance else {}
    because, clean_run = paths.get("because"), paths.get("clean run", "")
    if because not in (None, "asked for"):
        yield f"  the whole model ran for every number: {because}"
    if clean_run == "measured before":
        yield "  reused from the cache: numbers of the same weights, tokens and code"
    elif clean_run.startswith("run, and not remembered"):
        yield f"  clean run: {clean_run}"


def pareto_lines(result: ParetoResult) -> Iterator[str]:
    """Write the verdict; below a pass, list the records that it was not compared with.

    The text of a failure has the plot and these records.
    """
    word = result.status if result.status == "pass" else result.status.upper()
    if result.comparison is None:
        yield f"  {word}: pareto: no verdict ({result.cause} error): {result.message}"
        return
    yield f"  {word}: {pareto_headline(result.comparison)}"
    if result.status == "pass":
        yield from (f"    {line}" for line in not_compared(result.comparison))


def half_interval(verdict: Verdict) -> str:
    """Write half of the width of the interval; empty if there is no interval."""
    estimate = verdict.estimate
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return _distance(verdict.threshold, (estimate.high - estimate.low) / 2, ".2g")


def verdict_words(verdict: Verdict) -> str:
    """Write the verdict, in capitals unless it is a pass, with notes in parentheses."""
    word = verdict.status if verdict.status == "pass" else verdict.status.upper()
    is_marginal = verdict.marginal and verdict.status in ("pass", "warn", "fail")
    notes = ["marginal"] if is_marginal else []
    if verdict.progress is not None:
        notes.append(f"after {verdict.progress.measured:,}")
    if verdict.change is not None and verdict.change.noted:
        notes.append("; ".join(verdict.change.noted))
    if verdict.audit:
        notes.append(f"early: {verdict.audit}")
    return f"{word} ({'; '.join(notes)})" if notes else word


def _contract(parts: Sequence[ContractResult]) -> Iterator[str]:
    """Write the load contract on one line."""
    broken = [part.test for part in parts if _is_broken(part)]
    holding = sum(part.status == "pass" for part in parts)
    rest = len(parts) - len(broken) - holding
    if broken:
        failed = f"{', '.join(broken)} failed"
        yield f"  load contract BROKEN: {failed}; {holding} passed, {rest} not checked"
    elif parts:
        unknown = f", {rest} not checked" if rest else ""
        yield f"  load contract: {holding} of {len(parts)} checks passed{unknown}"


def _is_broken(part: ContractResult) -> bool:
    """Return True if the part was checked and does not hold."""
    return part.status == "error" and part.cause == "load"


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
    """Write the versions that changes are measured from."""
    for baseline in dict.fromkeys(v.change.baseline for v in verdicts if v.change):
        yield f"  changes since {baseline}, on the same sequences"


def _early(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Write what an early verdict means, and why a threshold that passes is undecided."""
    for verdict in verdicts:
        if verdict.status == "undecided" and verdict.passes:
            yield f"  {verdict.target} is undecided: {verdict.message}"
    progress = next((verdict.progress for verdict in verdicts if verdict.progress), None)
    if progress is not None:
        yield (
            f"  ~ estimates; each verdict is that on all {progress.total:,} sequences with a "
            f"chance of {1 - progress.alpha:.10g} or more"
        )


def _diagnosis(report: CaseReport, spelling: Spelling | None) -> Iterator[str]:
    """Write what is suspected of a checkpoint that passes.

    Of a checkpoint that fails, the text of the failure has it.
    """
    if report.diagnosis and all(verdict.passes for verdict in report.verdicts):
        yield from (f"  {line}" for line in report.diagnosis.lines("WARNING", spelling))


def _controls(member: str, result: ControlsResult) -> Iterator[str]:
    """Write a table of the checkpoint and its controls, and which of these it does not beat."""
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
    for test in report.not_judged[:_MOST_NOT_JUDGED]:
        yield f"NO VERDICT: {test.case.node_id(test.test)} {test.reason}"
    n_more = len(report.not_judged) - _MOST_NOT_JUDGED
    if n_more > 0:
        yield f"NO VERDICT: and {n_more} more"


def _not_gated(report: RunReport, *, verbose: bool) -> Iterator[str]:
    """List specs without a checkpoint; if ``verbose``, also checkpoints that a spec excludes."""
    for pair in report.not_gated:
        if pair.member is None or verbose:
            member = f" [{pair.member}]" if pair.member else ""
            yield f"not gated: {pair.spec}{member}: {pair.reason}"


def _records(report: RunReport) -> Iterator[str]:
    for record in sorted(report.records, key=lambda record: not record.path):
        case = f"{record.case}: " if record.case else ""
        yield f"recorded: {record.path}" if record.path else f"NOT RECORDED: {case}{record.refused}"
