"""The controller's side of a run: it takes the reports of tests, and ends the run with its own.

The plugin is registered on the controller only; under pytest-xdist the tests run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.files import write_whole
from sae_guard.pytest_plugin.items import attached_report
from sae_guard.pytest_plugin.options import EXIT_ERROR, Options
from sae_guard.pytest_plugin.plan import RUN_PLAN, as_usage_errors, plan_of
from sae_guard.pytest_plugin.session import SHARED_FOLDER, session_of
from sae_guard.pytest_plugin.spelling import spelled_options

if TYPE_CHECKING:
    from sae_guard.core.report import RecordResult, RunReport
    from sae_guard.gate.cases import Case
    from sae_guard.gate.ledger import Ledger, LedgerResult
    from sae_guard.gate.recording import Recorder
    from sae_guard.gate.session import JudgedOrError


class LedgerPlugin:
    """Notes the tests that are expected and reported, and raises the exit code where a pass would
    be wrong.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._report: RunReport | None = None
        self._recorder: Recorder | None = None

    def check_options(self) -> None:
        """Fail before the slow part where nothing can come of the run.

        Raises:
            pytest.UsageError: No spec, no case for a checkpoint, no such baseline, or no place to
                record or to write to.
        """
        gate = self._options.gate
        if gate.gates:
            plan_of(self._config)
            with as_usage_errors():
                if gate.baseline is not None:
                    session_of(self._config).check_baseline()
        if gate.record is not None:
            from sae_guard.gate.recording import Recorder

            with as_usage_errors():
                self._recorder = Recorder(session_of(self._config))
        if self._options.json is not None:
            try:
                self._options.json.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                given = self._config.getoption("sae_json")
                raise pytest.UsageError(f"--sae-json {given}: {error}") from None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Serially, the controller collects itself."""
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """Under xdist only the workers collect."""
        self._expect(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the report of a test; note failed ones that carry none."""
        if "_ledger" not in self.__dict__ or not self._ledger.expects(report.nodeid):
            return
        attached = attached_report(report)
        if attached is not None and (report.when == "call" or report.failed):
            self._ledger.add(report.nodeid, attached)
        elif report.failed:
            self._ledger.fail(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Raise the exit code where a pass would be wrong; record; write the report."""
        if session.config.option.collectonly or not self._ours(int(session.exitstatus)):
            return
        result = self._result()
        # -x and Ctrl-C leave tests unreported on purpose; those runs are no pass already.
        passed = session.exitstatus == pytest.ExitCode.OK
        errors = any(case.errors for case in result.cases)
        if passed or session.exitstatus == pytest.ExitCode.TESTS_FAILED:
            if errors or self._failed(result) or (passed and result.not_judged):
                session.exitstatus = EXIT_ERROR
            elif passed and any(case.crossed for case in result.cases):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        records = self._record(result)
        if any(record.refused for record in records):
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = EXIT_ERROR
        self._report = self._assemble(result, int(session.exitstatus), records)
        if self._options.json is not None:
            self._write_json(self._report)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Write the table of verdicts, and what was not gated and why."""
        if self._report is None:
            return
        from sae_guard.render import summary

        verbose = config.option.verbose > 0
        if lines := list(summary(self._report, verbose=verbose, spelling=spelled_options)):
            terminalreporter.section("sae guard")
            for line in lines:
                terminalreporter.write_line(line)
