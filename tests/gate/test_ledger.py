"""A run passes only if every expected test has a result, whatever the order of the reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.report import (
    CaseReport,
    ContractResult,
    ControlsResult,
    NotJudged,
    ParetoResult,
)
from sae_guard.core.statistics import Estimate
from sae_guard.core.verdicts import Status, Verdict
from sae_guard.gate import case_tests
from sae_guard.gate.case_tests import CaseTest, measured
from sae_guard.gate.ledger import Ledger, LedgerResult
from tests.helpers.planned import plan_of, spec
from tests.helpers.recorded import ordinary

SPEC_WITH_PARETO = spec("a").replace("thresholds: {", "thresholds: {pareto: {x: l0, y: kl}, ")
PLAN = plan_of(SPEC_WITH_PARETO, spec("b"), members=("v1", "v2"), controls=True)
"""Plan with tests of every kind: contract, threshold, pareto and controls."""
TESTS = [test for case in PLAN.cases for test in case_tests.list_tests(case)]
NAMES = [test.node_id for test in TESTS]
KL, L0 = "thresholds/s.yaml::a::kl[v1]", "thresholds/s.yaml::a::l0[v1]"
NEVER = "was collected and never reported"


def report_of(test: CaseTest, status: Status = "pass") -> CaseReport:
    """Return the report of a test that has this status."""
    ref, cause = test.case.ref, "load" if status == "error" else None
    message = "broken" if cause else ""
    if test.contract is not None:
        part = ContractResult(test.contract, status, cause, message)  # type: ignore[arg-type]
        return CaseReport(ref, contracts=(part,))
    if test.threshold is not None:
        estimate = None if cause else Estimate(0.05, 0.04, 0.06, 800, 8)
        verdict = Verdict(test.threshold, status, estimate, cause, message)  # type: ignore[arg-type]
        return CaseReport(ref, verdicts=(verdict,), **measured(ordinary()))
    if test.name == "pareto":
        assert test.case.pareto is not None
        pareto = ParetoResult(test.case.pareto, status, None, cause, message)  # type: ignore[arg-type]
        return CaseReport(ref, pareto=pareto)
    controls = ControlsResult(status, {}, cause, message)  # type: ignore[arg-type]
    return CaseReport(ref, controls=controls)


REPORTS = {test.node_id: report_of(test) for test in TESTS}


def ledger_of(reports: Iterable[tuple[str, CaseReport]]) -> Ledger:
    """Return a ledger that expects every test and has these reports."""
    ledger = Ledger(PLAN)
    ledger.expect(NAMES)
    for name, report in reports:
        ledger.add(name, report)
    return ledger


def result_with(name: str, status: Status) -> LedgerResult:
    """Return the result of a run in which this test has the status, and all others pass."""
    (test,) = (test for test in TESTS if test.node_id == name)
    return ledger_of({**REPORTS, name: report_of(test, status)}.items()).result()


def test_a_run_with_all_reports_passes() -> None:
    assert {test.name for test in TESTS} >= {"load.readable", "kl", "pareto", "controls"}
    result = ledger_of(REPORTS.items()).result()
    assert (result.not_judged, result.failed) == ((), False)
    assert (result.verdict(0), result.exit_code(0)) == ("pass", 0)
    assert [report.case for report in result.cases] == [case.ref for case in PLAN.cases]
    for case in PLAN.cases:
        assert list(result.report(case).statuses) == [
            test.name for test in case_tests.list_tests(case)
        ]
        assert result.missing_verdict(case) == ""


@pytest.mark.parametrize("lost", NAMES)
def test_a_test_without_a_report_makes_the_run_an_error(lost: str) -> None:
    reports = {name: report for name, report in REPORTS.items() if name != lost}
    result = ledger_of(reports.items()).result()
    (test,) = (test for test in TESTS if test.node_id == lost)
    assert result.not_judged == (NotJudged(test.case.ref, test.name, NEVER),)
    assert (result.verdict(0), result.exit_code(0)) == ("error", 2)
    assert result.missing_verdict(test.case) == f"{lost} {NEVER}"
    # After a failure, -x leaves tests unreported on purpose.
    assert (result.failed, result.exit_code(1)) == (False, 1)


def test_only_expected_tests_have_to_be_reported() -> None:
    ledger = Ledger(PLAN)
    ledger.expect([KL])
    ledger.add(KL, REPORTS[KL])
    assert ledger.expects(KL)
    assert not ledger.expects(L0)
    assert [ledger.expects_case(case) for case in PLAN.cases[:2]] == [True, False]
    result = ledger.result()
    assert (result.verdict(0), result.exit_code(0), len(result.cases)) == ("pass", 0, 1)
    assert result.report(PLAN.cases[1]) == CaseReport(PLAN.cases[1].ref)


def test_a_test_that_failed_without_a_report_is_an_error() -> None:
    reports = {name: report for name, report in REPORTS.items() if name != KL}
    ledger = ledger_of(reports.items())
    ledger.fail(KL)
    result = ledger.result()
    assert [(test.test, test.reason) for test in result.not_judged] == [
        ("kl", "failed without a verdict")
    ]
    assert (result.failed, result.exit_code(0), result.exit_code(1)) == (True, 2, 2)


def test_a_test_that_fails_after_its_report_keeps_its_verdict() -> None:
    ledger = ledger_of(REPORTS.items())
    ledger.fail(KL)
    assert ledger.result().not_judged == ()


def test_a_report_may_come_twice() -> None:
    result = ledger_of([*REPORTS.items(), *REPORTS.items()]).result()
    assert (result.not_judged, result.exit_code(0)) == ((), 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_report_that_differs_from_an_earlier_one_is_an_error(name: str) -> None:
    (test,) = (test for test in TESTS if test.node_id == name)
    ledger = ledger_of(REPORTS.items())
    ledger.add(name, report_of(test, "warn"))
    result = ledger.result()
    (problem,) = result.not_judged
    assert (problem.case, problem.test) == (test.case.ref, test.name)
    assert "was reported twice, and differently" in problem.reason
    assert (result.failed, result.exit_code(0), result.exit_code(1)) == (True, 2, 2)
    assert result.missing_verdict(test.case).startswith(f"{name} {test.case.ref}: ")


def test_a_report_that_contradicts_that_of_another_test_is_an_error() -> None:
    provenance = replace(ordinary().provenance, device="cuda:1")
    other = replace(REPORTS[L0], provenance=provenance)
    for reports in ({**REPORTS, L0: other}, {L0: other, **REPORTS, KL: REPORTS[KL]}):
        result = ledger_of({**reports, L0: other}.items()).result()
        (problem,) = result.not_judged
        case = PLAN.cases[0].ref
        assert (problem.case, problem.test) == (case, "l0")
        assert problem.reason == f"{case}: provenance was reported twice, and differently"
        assert (result.verdict(0), result.exit_code(0), result.exit_code(1)) == ("error", 2, 2)
        assert result.cases[0].provenance == ordinary().provenance


@given(order=st.permutations(NAMES), lost=st.sets(st.sampled_from(NAMES), max_size=3))
def test_results_are_in_the_order_of_the_plan(order: list[str], lost: set[str]) -> None:
    expected = ledger_of((name, REPORTS[name]) for name in NAMES if name not in lost).result()
    result = ledger_of((name, REPORTS[name]) for name in order if name not in lost).result()
    assert result == expected
    assert repr(result) == repr(expected)
    missing = [(test.case.ref, test.name) for test in TESTS if test.node_id in lost]
    assert [(test.case, test.test) for test in result.not_judged] == missing


def test_a_group_that_xdist_appends_is_not_part_of_the_name() -> None:
    ledger = Ledger(PLAN)
    ledger.expect(f"{name}@gpu 1" for name in NAMES)
    assert ledger.expects(KL)
    assert ledger.expects(f"{KL}@other")
    for name, report in REPORTS.items():
        ledger.add(f"{name}@gpu 1", report)
    result = ledger.result()
    assert (result.not_judged, result.exit_code(0)) == ((), 0)


def test_an_at_sign_in_a_name_is_no_group() -> None:
    sliced = "thresholds: {kl: {max: 1}}\nslices: [{position: ..8, thresholds: {kl: {max: 3}}}]\n"
    plan = plan_of(spec("a").partition("thresholds:")[0] + sliced)
    full, part = [test.node_id for test in case_tests.list_tests(plan.cases[0])][-2:]
    assert (full, part) == ("thresholds/s.yaml::a::kl[v1]",
                             "thresholds/s.yaml::a::kl@position=0..8[v1]")  # fmt: skip
    ledger = Ledger(plan)
    ledger.expect([f"{part}@group"])
    assert ledger.expects(part)
    assert not ledger.expects(full)


STRANGERS = ["tests/test_mine.py::test", "thresholds/s.yaml::a::kl[v9]", f"{KL}::x", "@", ""]


@pytest.mark.parametrize("name", STRANGERS)
def test_tests_outside_the_plan_are_ignored(name: str) -> None:
    ledger = ledger_of(REPORTS.items())
    ledger.expect([name])
    assert not ledger.expects(name)
    ledger.add(name, REPORTS[KL])
    ledger.add(name, REPORTS[NAMES[0]])
    ledger.fail(name)
    result = ledger.result()
    assert result == ledger_of(REPORTS.items()).result()
    assert (result.exit_code(0), result.exit_code(1)) == (0, 1)


@pytest.mark.parametrize(
    ("status", "verdict", "codes"),
    [
        ("pass", "pass", (0, 1)),
        ("warn", "pass", (0, 1)),
        ("fail", "fail", (1, 1)),
        ("undecided", "fail", (1, 1)),
        ("error", "error", (2, 2)),
    ],
)
def test_the_exit_code_is_at_least_that_of_the_verdicts(
    status: Status, verdict: str, codes: tuple[int, int]
) -> None:
    result = result_with(KL, status)
    assert result.verdict(0) == verdict
    assert (result.exit_code(0), result.exit_code(1)) == codes
    assert [result.exit_code(code) for code in (2, 3, 4, 5)] == [2, 3, 4, 5]
    assert {result.verdict(code) for code in (2, 3, 4, 5)} == {"error"}


def test_a_run_with_a_failed_test_of_the_user_is_no_pass() -> None:
    assert ledger_of(REPORTS.items()).result().verdict(1) == "fail"


def test_missing_verdict_names_the_first_test_without_one() -> None:
    result = result_with(KL, "error")
    assert result.missing_verdict(PLAN.cases[0]) == f"{KL} ended in an error: broken"
    assert result.missing_verdict(PLAN.cases[1]) == ""
