"""Collectors and items of the gate: spec file → documents → tests of each case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import LoadError, SaeGuardError
from sae_guard.pytest_plugin.plan import RUN_PLAN, plan_of
from sae_guard.pytest_plugin.session import session_of
from sae_guard.pytest_plugin.spelling import spelled, spelled_options

if TYPE_CHECKING:
    from sae_guard.core.diagnosis import Diagnosis
    from sae_guard.core.report import CaseReport
    from sae_guard.core.verdicts import Verdict
    from sae_guard.core.worst_tokens import Worst
    from sae_guard.gate.case_tests import CaseTest, TestRun
    from sae_guard.specs import Spec

_FirstTests = dict[str, str]
"""Key of a case → node id of its first test that failed in some way."""
_FIRST_ERROR, _FIRST_DIAGNOSIS, _FIRST_WORST = (pytest.StashKey[_FirstTests]() for _ in range(3))


class GateFailure(Exception):
    """Failure of a gate test. pytest prints its message without a traceback."""


class SpecFile(pytest.File):
    """A YAML file of specs."""

    def collect(self) -> Iterator[pytest.Collector]:
        """Yield one collector per document; a malformed file is a collection error."""
        try:
            plan = plan_of(self.config)
            for spec in self.config.stash[RUN_PLAN].documents(self.path):
                if plan.of(spec):
                    yield SpecDocument.from_parent(self, name=spec.name, spec=spec)
        except (SaeGuardError, pytest.UsageError) as error:
            raise self.CollectError(str(error)) from None


class SpecDocument(pytest.Collector):
    """One spec: a model, a hook point and a token set with their thresholds."""

    def __init__(self, *, spec: Spec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the tests of each case of the spec."""
        from sae_guard.gate.case_tests import list_tests

        for case in plan_of(self.config).of(self.spec):
            for test in list_tests(case):
                name = case.ref.test_name(test.name)
                # An explicit node id: pytest 9 then parses its brackets as it parses those in its
                # cache. Otherwise --lf would not find the failed tests.
                yield GateItem.from_parent(
                    self, name=name, nodeid=f"{self.nodeid}::{name}", test=test
                )


class GateItem(pytest.Item):
    """One test of a case.

    Without a verdict it raises in its setup: pytest reports an ERROR. If the verdict is no pass, it
    raises in its call: pytest reports a FAILURE. A broken part of the load contract is a FAILURE of
    its own test, and yet no verdict on the SAE: the exit code of the run is 2.
    """

    def __init__(self, *, test: CaseTest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.test = test
        self.report_text = ""
        """JSON of the report, for the setup, the call and the teardown; empty before the setup."""
        self._run: TestRun | None = None

    def setup(self) -> None:
        """Run the test; raise if it has no verdict."""
        from sae_guard.core.report import CaseReport
        from sae_guard.core.report_json import to_plain
        from sae_guard.gate.case_tests import run
        from sae_guard.render.junit import junit_properties

        self._run = run(self.test, session_of(self.config))
        self.report_text = json.dumps(to_plain(CaseReport, self._run.report), allow_nan=False)
        self.user_properties.extend(junit_properties(self._run.report))
        error = self._run.error
        breaks_contract = isinstance(error, LoadError) and error.contract == self.test.contract
        if error is not None and not breaks_contract:
            pytest.fail(self._error_text(error), pytrace=False)

    def runtest(self) -> None:
        """Raise unless the verdict is a pass, or a warning."""
        if self._run is None:
            raise RuntimeError("setup did not run")
        if self._run.error is not None:
            raise GateFailure(self._error_text(self._run.error))
        for verdict in self._run.report.verdicts:
            if not verdict.passes:
                from sae_guard.render.words import failure

                diagnosis, worst = self._diagnosis(), self._worst(verdict)
                raise GateFailure(failure(verdict, diagnosis, worst, spelling=spelled_options))
        pareto = self._run.report.pareto
        if pareto is not None and pareto.status == "fail" and pareto.comparison is not None:
            from sae_guard.render.pareto import pareto_failure

            raise GateFailure(pareto_failure(pareto.comparison))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """Return the message of a `GateFailure`; any other exception with its traceback."""
        if isinstance(excinfo.value, GateFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return file, line and name of the test, for editors and reports."""
        line = self.test.line - 1 if self.test.line else None  # pytest counts from 0
        # With the space the name is no suffix of the node id: pytest would replace its dots.
        return self.path, line, f"{self.test.case.spec.name}::{self.name} "

    def _error_text(self, error: SaeGuardError) -> str:
        """Return the error; in all tests of the case but one, a pointer to that one."""
        full_text_in = self.nodeid
        if self._run is not None and self._run.concerns_case:
            full_text_in = self._test_of_contract(error) or self._first_of_case(_FIRST_ERROR)
        text = (
            spelled(error) if full_text_in == self.nodeid else f"not measured, see {full_text_in}"
        )
        return f"{error.cause} error: {text}"

    def _test_of_contract(self, error: SaeGuardError) -> str | None:
        """Return the node id of the test of the broken part of the load contract, if it runs."""
        from sae_guard.core.report import contract_test

        if not isinstance(error, LoadError):
            return None
        node_id = self.test.case.ref.node_id(contract_test(error.contract))
        runs = any(item.nodeid == node_id for item in self.session.items)
        return node_id if runs else None

    def _diagnosis(self) -> Diagnosis:
        """Return the probable causes in the first failure of the case; nothing in later ones."""
        from sae_guard.core.diagnosis import Diagnosis

        if self._first_of_case(_FIRST_DIAGNOSIS) != self.nodeid:
            return Diagnosis()
        session, case = session_of(self.config), self.test.case
        return session.diagnosis(case, session.judged(case).measurement)

    def _worst(self, verdict: Verdict) -> Worst | None:
        """Return the worst tokens in the first failure of the case that they explain."""
        from sae_guard.core.worst_tokens import EXPLAINED_METRICS, worst

        target = verdict.target
        if (
            target.metric not in EXPLAINED_METRICS
            or self._first_of_case(_FIRST_WORST) != self.nodeid
        ):
            return None
        measurement = session_of(self.config).judged(self.test.case).measurement
        return worst(measurement, tokens=3, sequences=2, slice=target.slice)

    def _first_of_case(self, key: pytest.StashKey[_FirstTests]) -> str:
        """Return the node id of the first test of the case that asked with this key."""
        first_tests = self.config.stash.setdefault(key, {})
        return first_tests.setdefault(self.test.case.key, self.nodeid)


def attach_report(item: pytest.Item, report: pytest.TestReport) -> None:
    """Attach the test's report to that of pytest, as text, which pytest-xdist can send."""
    if isinstance(item, GateItem) and item.report_text:
        report.sae_guard = item.report_text  # type: ignore[attr-defined]


def attached_report(report: pytest.TestReport) -> CaseReport | None:
    """Return the report that `attach_report` attached; None without one."""
    text = getattr(report, "sae_guard", None)
    if text is None:
        return None
    from sae_guard.core.report import CaseReport
    from sae_guard.core.report_json import from_plain

    attached: CaseReport = from_plain(CaseReport, json.loads(text), source=report.nodeid)
    return attached
