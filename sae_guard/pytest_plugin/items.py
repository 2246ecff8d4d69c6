"""Spec file → documents → the tests of each case, as pytest collects, runs and reports them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import SaeGuardError
from sae_guard.pytest_plugin.plan import RUN_PLAN, plan_of
from sae_guard.pytest_plugin.session import session_of
from sae_guard.pytest_plugin.spelling import spelled_options, with_options

if TYPE_CHECKING:
    from sae_guard.core.diagnosis import Diagnosis
    from sae_guard.core.report import CaseReport
    from sae_guard.core.verdicts import Verdict
    from sae_guard.core.worst_tokens import Worst
    from sae_guard.gate.case_tests import CaseTest, Obstacle, TestRun
    from sae_guard.specs import Spec

_Firsts = dict[str, str]
_TOLD, _EXPLAINED, _SHOWN = (pytest.StashKey[_Firsts]() for _ in range(3))


class GateFailure(Exception):
    """A test failed for a reason that needs no traceback; the message is the failure text."""


class SpecFile(pytest.File):
    """A YAML file of specs."""

    def collect(self) -> Iterator[pytest.Collector]:
        """Give one collector per document; a malformed file is a collection error."""
        try:
            plan = plan_of(self.config)
            for spec in self.config.stash[RUN_PLAN].documents(self.path):
                if plan.of(spec):
                    yield SpecDocument.from_parent(self, name=spec.name, spec=spec)
        except (SaeGuardError, pytest.UsageError) as error:
            raise self.CollectError(str(error)) from None


class SpecDocument(pytest.Collector):
    """One document: a model, a hook point and a token set with their thresholds."""

    def __init__(self, *, spec: Spec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def collect(self) -> Iterator[pytest.Item]:
        """Give the tests of each checkpoint that the spec gates."""
        from sae_guard.gate.case_tests import list_tests

        for case in plan_of(self.config).of(self.spec):
            for test in list_tests(case):
                name = case.ref.test_name(test.name)
                # The id as text: pytest 9 then parses the brackets as it does those in its cache,
                # without which --lf does not know its own failures.
                yield GateItem.from_parent(
                    self, name=name, nodeid=f"{self.nodeid}::{name}", test=test
                )


class GateItem(pytest.Item):
    """One test of a case.

    What keeps it from a verdict is raised in its setup, an ERROR for pytest; what does not pass, in
    its call, a FAILURE. A broken part of the load contract is a failure too. Either way there is no
    verdict on the SAE, and the run's exit code is 2.
    """

    def __init__(self, *, test: CaseTest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.test = test
        self._run: TestRun | None = None

    @property
    def report(self) -> CaseReport | None:
        """What the test found, once it was set up."""
        return self._run.report if self._run else None

    def setup(self) -> None:
        """Run the test; raise where it gives no verdict."""
        from sae_guard.gate.case_tests import run
        from sae_guard.render import junit_properties

        self._run = run(self.test, session_of(self.config))
        self.user_properties.extend(junit_properties(self._run.report))
        obstacle = self._run.obstacle
        if obstacle is not None and not self._breaks(obstacle):
            pytest.fail(self._error_text(obstacle), pytrace=False)

    def runtest(self) -> None:
        """Raise unless the verdict is a pass, or a warning."""
        if self._run is None:
            raise RuntimeError("setup did not run")
        if self._run.obstacle is not None:
            raise GateFailure(self._error_text(self._run.obstacle))
        for verdict in self._run.report.verdicts:
            if not verdict.passes:
                raise GateFailure(self._failure_text(verdict))
        pareto = self._run.report.pareto
        if pareto is not None and pareto.status == "fail" and pareto.comparison is not None:
            from sae_guard.render import pareto_failure

            raise GateFailure(pareto_failure(pareto.comparison))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """Give the failure text as it is; whatever else happened, with its traceback."""
        if isinstance(excinfo.value, GateFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Say where it stands in the spec, for editors and reports."""
        line = self.test.line - 1 if self.test.line else None
        # With the space it is no end of the node id, whose dots pytest would show as colons.
        return self.path, line, f"{self.test.case.spec.name}::{self.name} "

    def _breaks(self, obstacle: Obstacle) -> bool:
        """Whether the obstacle is the part of the load contract that this test is about."""
        return self.test.contract is not None and obstacle.contract == self.test.contract

    def _error_text(self, obstacle: Obstacle) -> str:
        """The whole error in one test of the case, a pointer to it in the others."""
        teller = self.nodeid
        if obstacle.concerns_case:
            teller = self._test_of_contract(obstacle) or self._first_of_case(_TOLD)
        message = with_options(obstacle.message, obstacle.options)
        text = message if teller == self.nodeid else f"not measured, see {teller}"
        return f"{obstacle.cause} error: {text}"

    def _test_of_contract(self, obstacle: Obstacle) -> str | None:
        """The test of the part of the load contract that is broken, if it runs."""
        from sae_guard.core.report import contract_test

        if obstacle.contract is None:
            return None
        node_id = self.test.case.ref.node_id(contract_test(obstacle.contract))
        runs = any(item.nodeid == node_id for item in self.session.items)
        return node_id if runs else None

    def _failure_text(self, verdict: Verdict) -> str:
        from sae_guard.render import failure

        worst = self._worst(verdict)
        return failure(verdict, self._diagnosis(), worst, spelling=spelled_options)

    def _diagnosis(self) -> Diagnosis:
        """What is probably wrong, in the first failure of the case."""
        from sae_guard.core.diagnosis import Diagnosis

        if self._first_of_case(_EXPLAINED) != self.nodeid:
            return Diagnosis()
        session, case = session_of(self.config), self.test.case
        return session.diagnosis(case, session.judged(case).measurement)

    def _worst(self, verdict: Verdict) -> Worst | None:
        """The worst of what is looked at, in the first failure that it explains."""
        from sae_guard.core.worst_tokens import EXPLAINED_METRICS, worst

        target = verdict.target
        if target.metric not in EXPLAINED_METRICS or self._first_of_case(_SHOWN) != self.nodeid:
            return None
        measurement = session_of(self.config).judged(self.test.case).measurement
        return worst(measurement, tokens=3, sequences=2, slice=target.slice)

    def _first_of_case(self, firsts: pytest.StashKey[_Firsts]) -> str:
        """Node id of the test that says what concerns all tests of what the case measures."""
        by_key = self.config.stash.setdefault(firsts, {})
        return by_key.setdefault(self.test.case.key, self.nodeid)


def attach_report(item: pytest.Item, report: pytest.TestReport) -> None:
    """Let the test's report cross from a worker of pytest-xdist: as text, which nothing refuses."""
    if isinstance(item, GateItem) and item.report is not None:
        from sae_guard.core.report import CaseReport
        from sae_guard.core.report_json import to_plain

        plain = to_plain(CaseReport, item.report)
        report.sae_guard = json.dumps(plain, allow_nan=False)  # type: ignore[attr-defined]


def attached_report(report: pytest.TestReport) -> CaseReport | None:
    """Read what `attach_report` attached; None where it attached nothing."""
    text = getattr(report, "sae_guard", None)
    if text is None:
        return None
    from sae_guard.core.report import CaseReport
    from sae_guard.core.report_json import from_plain

    attached: CaseReport = from_plain(CaseReport, json.loads(text), source=report.nodeid)
    return attached
