"""Run a gate without pytest, and assemble the `RunReport` of any run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace

from sae_guard.core.report import (
    EXIT_CODES,
    CaseReport,
    MemberProblem,
    NotGated,
    NotJudged,
    RecordResult,
    RunReport,
    RunVerdict,
    verdict_of,
)
from sae_guard.gate.case_tests import report
from sae_guard.gate.following import equal_weights
from sae_guard.gate.options import GateOptions
from sae_guard.gate.planning import Plan
from sae_guard.gate.recording import CaseResult, Recorder
from sae_guard.gate.run_plan import RunPlan
from sae_guard.gate.session import GateSession
from sae_guard.gate.tracking import Tracking, track
from sae_guard.history import NO_VERSION


def run_gate(options: GateOptions) -> RunReport:
    """Plan, measure, judge and record without pytest.

    Raises:
        SaeGuardError: The run cannot be planned, or its options contradict each other. The report
            contains all later errors.
    """
    run_plan = RunPlan(options)
    plan = run_plan.plan
    session = GateSession(options, lambda: plan.cases, baselines=run_plan.baselines)
    session.check_baseline()
    recorder = Recorder(session) if options.record is not None else None
    cases = tuple(report(case, session) for case in plan.cases)
    results = {
        case.ref: CaseResult(case_report, session.judged_before(case))
        for case, case_report in zip(plan.cases, cases, strict=True)
    }
    records = recorder.record_all(results) if recorder else ()
    incomplete = (
        *plan.problems,
        *equal_weights(plan.cases, cases, one_version=options.is_one_version),
    )
    verdict = verdict_of(cases, incomplete)
    # A pass that cannot be recorded is an error; a failure stays one.
    refused = verdict == "pass" and any(record.refused for record in records)
    exit_code = EXIT_CODES["error" if refused else verdict]
    tracking = track(session.history, plan.cases)
    return assemble(
        plan, options, cases, verdict, exit_code,
        records=records, tracking=tracking, incomplete=incomplete,
    )  # fmt: skip


def assemble(
    plan: Plan,
    options: GateOptions,
    cases: Sequence[CaseReport],
    verdict: RunVerdict,
    exit_code: int,
    *,
    tracking: Tracking,
    records: tuple[RecordResult, ...],
    not_judged: tuple[NotJudged, ...] = (),
    incomplete: tuple[MemberProblem, ...] = (),
) -> RunReport:
    """Assemble the report of a run.

    Args:
        plan: Plan of the run.
        options: Options of the run.
        cases: Reports of the cases, in the order of the plan.
        verdict: Verdict on the run.
        exit_code: Exit code of the run.
        tracking: Thresholds that are looser than at the last promoted version.
        records: Records of the cases, or the reasons why there is none.
        not_judged: Tests without a result.
        incomplete: Members that are missing, unexpected, or have the weights of another one.
    """
    return RunReport(
        importlib.metadata.version("sae-guard"),
        verdict,
        exit_code,
        tuple(replace(case, loosened=tracking.loosened.get(case.case.spec)) for case in cases),
        not_judged,
        tuple(NotGated(idle.spec.title, idle.member, idle.reason) for idle in plan.idle),
        records,
        tuple(_notes(plan, options)),
        tuple(tracking.warnings),
        incomplete,
    )


def _notes(plan: Plan, options: GateOptions) -> list[str]:
    """Return notes on a baseline that no threshold uses, and on thresholds left out without one."""
    specs = {id(case.spec): case.spec for case in plan.cases}.values()
    changes = [t for spec in specs for t in spec.thresholds if t.change]
    n_left_out = len(changes) + sum(spec.pareto is not None for spec in specs)
    new = [case for case in plan.cases if case.new_since]
    if new:
        return [
            f"{case.ref.title} is new: no earlier version in {case.new_since}; its bounds on "
            "changes are not in force"
            for case in new
        ]
    if options.baseline not in (None, NO_VERSION) and not changes:
        return [f"baseline {options.baseline}: no spec of this run has thresholds on changes"]
    if options.baseline == NO_VERSION and n_left_out:
        noun = "threshold" if n_left_out == 1 else "thresholds"
        return [f"baseline none: left out {n_left_out} {noun} that earlier versions set"]
    return []
