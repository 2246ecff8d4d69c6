"""The ledger of a run: a run passes only if every expected test has a result.

pytest does not notice a test whose report is lost (the worker crashed, or the report cannot cross
processes). The ledger makes it an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sae_guard.core.report import (
    EXIT_CODES,
    CaseRef,
    CaseReport,
    DisagreementError,
    MemberProblem,
    NotJudged,
    RunVerdict,
    merged,
)
from sae_guard.gate.case_tests import list_tests
from sae_guard.gate.cases import Case
from sae_guard.gate.following import equal_weights
from sae_guard.gate.planning import Plan

_NOT_REPORTED = "was collected and never reported"


@dataclass(frozen=True)
class LedgerResult:
    """The results of a run, in the order of the plan."""

    cases: tuple[CaseReport, ...]
    not_judged: tuple[NotJudged, ...]
    incomplete: tuple[MemberProblem, ...]
    """Members that are missing, unexpected, or have the weights of another one."""
    failed: bool
    """True where a test without a result failed, or contradicts another test."""

    def verdict(self, exit_code: int) -> RunVerdict:
        """Return the verdict on a run that ends with this exit code."""
        errors = any(case.errors for case in self.cases)
        if self.not_judged or self.incomplete or errors or exit_code not in (0, 1):
            return "error"
        return "fail" if exit_code or any(case.crossed for case in self.cases) else "pass"

    def exit_code(self, exit_code: int) -> int:
        """Return the exit code of the gate, raised where that of pytest is too good."""
        if exit_code not in (0, 1):
            return exit_code  # the run was interrupted or collected nothing: no pass already
        # After a failure, -x leaves tests unreported on purpose: only failed ones count then.
        unknown = self.not_judged if exit_code == 0 else self.failed
        if unknown or self.incomplete or any(case.errors for case in self.cases):
            return EXIT_CODES["error"]
        crossed = any(case.crossed for case in self.cases)
        return EXIT_CODES["fail"] if crossed else exit_code

    def report(self, case: Case) -> CaseReport:
        """Return the report of a case; an empty one where none of its tests reported."""
        reports = (report for report in self.cases if report.case == case.ref)
        return next(reports, CaseReport(case.ref))

    def missing_verdict(self, case: Case) -> str:
        """Return which test of a case has no verdict, and why; empty where all tests have one."""
        not_judged = {test.test: test.reason for test in self.not_judged if test.case == case.ref}
        errors = self.report(case).errors
        for test in list_tests(case):
            if test.name in errors:
                return f"{test.node_id} ended in an error: {errors[test.name]}"
            if test.name in not_judged:
                return f"{test.node_id} {not_judged[test.name]}"
        return ""


class Ledger:
    """The expected tests of a plan, and their reports so far."""

    def __init__(self, plan: Plan, *, one_version: bool = False) -> None:
        """Expect the tests of a plan.

        Args:
            plan: Plan of the run.
            one_version: True if all its checkpoints are of one version, which is recorded.
        """
        self._plan, self._one_version = plan, one_version
        self._cases = plan.cases
        self._tests = {test.node_id: test for case in plan.cases for test in list_tests(case)}
        self._expected: set[str] = set()
        self._reports: dict[str, CaseReport] = {}
        self._problems: dict[str, str] = {}

    def expect(self, node_ids: Iterable[str]) -> None:
        """Expect a report of these tests; ignore tests that are not of the plan."""
        self._expected.update(filter(None, map(self._planned_id, node_ids)))

    def expects(self, node_id: str) -> bool:
        """Return whether a report of the test is expected."""
        return self._planned_id(node_id) in self._expected

    def expects_case(self, case: Case) -> bool:
        """Return whether a report of any test of the case is expected."""
        return any(test.node_id in self._expected for test in list_tests(case))

    def add(self, node_id: str, report: CaseReport) -> None:
        """Add the report of a test; a second report that differs makes the test an error."""
        name = self._planned_id(node_id)
        if name is None:
            return
        self._reports[name] = _merged(self._reports.get(name), report, name, self._problems)

    def reject(self, node_id: str, reason: str) -> None:
        """Note that the report of a test cannot be read."""
        if name := self._planned_id(node_id):
            self._problems[name] = f"has an unreadable report: {reason}"

    def fail(self, node_id: str) -> None:
        """Note that a test failed without a report."""
        name = self._planned_id(node_id)
        if name is not None and name not in self._reports:
            self._problems[name] = "failed without a verdict"

    def result(self) -> LedgerResult:
        """Merge the reports of the tests into one report per case.

        Where the reports of two tests contradict each other, the test that is first in the plan
        counts, and the other one is a test without a result.
        """
        problems, reports = dict(self._problems), dict[CaseRef, CaseReport]()
        for name, test in self._tests.items():
            if name not in self._expected:
                continue
            report, ref = self._reports.get(name), test.case.ref
            if report is None:
                problems.setdefault(name, _NOT_REPORTED)
                continue
            reports[ref] = _merged(reports.get(ref), report, name, problems)
        equal = equal_weights(self._cases, reports.values(), one_version=self._one_version)
        return LedgerResult(
            tuple(reports[case.ref] for case in self._cases if case.ref in reports),
            tuple(
                NotJudged(test.case.ref, test.name, problems[name])
                for name, test in self._tests.items()
                if name in problems
            ),
            (*self._plan.problems, *equal),
            failed=any(reason != _NOT_REPORTED for reason in problems.values()),
        )

    def _planned_id(self, node_id: str) -> str | None:
        """Return the node id in the plan, if any; pytest-xdist may append ``@GROUP`` to it."""
        if node_id in self._tests:
            return node_id
        without_group = node_id.rpartition("@")[0]
        return without_group if without_group in self._tests else None


def _merged(
    first: CaseReport | None, second: CaseReport, test: str, problems: dict[str, str]
) -> CaseReport:
    """Merge two reports; if they disagree, return the first, and note a problem of the test."""
    if first is None:
        return second
    try:
        return merged([first, second])
    except DisagreementError as error:
        problems[test] = str(error)
        return first
