"""The ledger of a run: every test of the plan that was to run has a result, or it is no pass.

A test whose report was lost (a crashed worker, a report that cannot cross processes) looks to
pytest like a test that never was; here it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sae_guard.core.report import (
    EXIT_CODES,
    CaseRef,
    CaseReport,
    DisagreementError,
    NotJudged,
    RunVerdict,
    merged,
)
from sae_guard.gate.case_tests import list_tests
from sae_guard.gate.cases import Case
from sae_guard.gate.planning import Plan

_NOT_REPORTED = "was collected and never reported"


@dataclass(frozen=True)
class LedgerResult:
    """What a run came to, in the order of the plan."""

    cases: tuple[CaseReport, ...]
    not_judged: tuple[NotJudged, ...]
    failed: bool
    """Whether a test without a result failed, or contradicts another."""

    def verdict(self, exit_code: int) -> RunVerdict:
        """Judge the run, which ends with this code unless that would be wrong."""
        errors = any(case.errors for case in self.cases)
        if self.not_judged or errors or exit_code not in (0, 1):
            return "error"
        return "fail" if exit_code or any(case.crossed for case in self.cases) else "pass"

    def exit_code(self, exit_code: int) -> int:
        """Raise the exit code of the test run where a pass, or a mere failure, would be wrong."""
        if exit_code not in (0, 1):
            return exit_code  # an interrupted run, or one that collected nothing, is no pass anyway
        # Tests that are left out by -x are not reported on purpose: that run failed already.
        unknown = self.not_judged if exit_code == 0 else self.failed
        if unknown or any(case.errors for case in self.cases):
            return EXIT_CODES["error"]
        crossed = any(case.crossed for case in self.cases)
        return EXIT_CODES["fail"] if crossed else exit_code

    def report(self, case: Case) -> CaseReport:
        """Find the report of a case; an empty one where it has none."""
        return next((each for each in self.cases if each.case == case.ref), CaseReport(case.ref))

    def trouble(self, case: Case) -> str:
        """Say which test of a case has no verdict, and why; empty where all have one."""
        open_tests = {each.test: each.reason for each in self.not_judged if each.case == case.ref}
        errors = self.report(case).errors
        for test in list_tests(case):
            if test.name in errors:
                return f"{test.node_id} ended in an error: {errors[test.name]}"
            if test.name in open_tests:
                return f"{test.node_id} {open_tests[test.name]}"
        return ""


class Ledger:
    """Tests that are expected, and what was reported of them."""

    def __init__(self, plan: Plan) -> None:
        self._cases = plan.cases
        self._tests = {test.node_id: test for case in plan.cases for test in list_tests(case)}
        self._expected: set[str] = set()
        self._reports: dict[str, CaseReport] = {}
        self._problems: dict[str, str] = {}

    def expect(self, node_ids: Iterable[str]) -> None:
        """Note the tests that have to be reported; others are none of ours."""
        self._expected.update(filter(None, map(self._known, node_ids)))

    def expects(self, node_id: str) -> bool:
        """Say whether a test has to be reported."""
        return self._known(node_id) in self._expected

    def expects_case(self, case: Case) -> bool:
        """Say whether any test of a case has to be reported."""
        return any(test.node_id in self._expected for test in list_tests(case))

    def add(self, node_id: str, report: CaseReport) -> None:
        """Take the report of a test. One that differs from an earlier one is an error."""
        name = self._known(node_id)
        if name is None:
            return
        try:
            self._reports[name] = merged([self._reports.get(name, report), report])
        except DisagreementError as error:
            self._problems[name] = str(error)

    def fail(self, node_id: str) -> None:
        """Note that a test failed without a report."""
        name = self._known(node_id)
        if name is not None and name not in self._reports:
            self._problems[name] = "failed without a verdict"

    def result(self) -> LedgerResult:
        """Put the reports of each case together.

        Where two processes report different things, the case has what came first in the plan, and
        the test that says otherwise is one without a result.
        """
        problems, reports = dict(self._problems), dict[CaseRef, CaseReport]()
        for name, test in self._tests.items():
            if name not in self._expected:
                continue
            report, ref = self._reports.get(name), test.case.ref
            if report is None:
                problems.setdefault(name, _NOT_REPORTED)
                continue
            try:
                reports[ref] = merged([reports.get(ref, report), report])
            except DisagreementError as error:
                problems[name] = str(error)
        return LedgerResult(
            tuple(reports[case.ref] for case in self._cases if case.ref in reports),
            tuple(
                NotJudged(test.case.ref, test.name, problems[name])
                for name, test in self._tests.items()
                if name in problems
            ),
            failed=any(why != _NOT_REPORTED for why in problems.values()),
        )

    def _known(self, node_id: str) -> str | None:
        """Find the test of the plan; pytest-xdist may append a group to its name."""
        if node_id in self._tests:
            return node_id
        without_group = node_id.rpartition("@")[0]
        return without_group if without_group in self._tests else None
