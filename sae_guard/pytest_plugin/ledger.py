"""The controller's part of a run: collect the reports of tests, and write the report of the run.

The plugin is registered on the controller only; with pytest-xdist, workers run the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import SaeGuardError
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
    from sae_guard.gate.planning import Plan
    from sae_guard.gate.recording import Recorder
    from sae_guard.gate.session import JudgedOrError


class LedgerPlugin:
    """Plugin of the controller: compares reported with expected tests, and sets the exit code."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._ledger: Ledger | None = None
        self._recorder: Recorder | None = None
        self._report: RunReport | None = None

    def check_options(self) -> None:
        """Check the options before anything slow.

        Raises:
            pytest.UsageError: There is no spec, no spec gates a checkpoint, the baseline is no
                version, or the record or the report cannot be written.
        """
        gate, json = self._options.gate, self._options.json
        if gate.gates:
            plan_of(self._config)
            if gate.baseline is not None:
                with as_usage_errors("baseline"):
                    session_of(self._config).check_baseline()
        if gate.record is not None:
            from sae_guard.gate.recording import Recorder

            with as_usage_errors("record"):
                self._recorder = Recorder(session_of(self._config))
        if json is not None:
            try:
                json.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                path = self._config.getoption("sae_json")
                raise pytest.UsageError(f"--sae-json {path}: {error}") from None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Expect the tests that this process collected, in a run without workers."""
        self._expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)  # without xdist pytest knows no such hook
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """Expect the tests that a worker of pytest-xdist collected."""
        self._expect(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the report of a test to the ledger, or note that it failed without one."""
        if self._ledger is None or not self._ledger.expects(report.nodeid):
            return
        if report.when != "call" and not report.failed:
            return  # setup and teardown of a test carry the same report as its call
        try:
            attached = attached_report(report)
        except (ValueError, SaeGuardError) as error:
            self._ledger.reject(report.nodeid, str(error))
            return
        if attached is not None:
            self._ledger.add(report.nodeid, attached)
        elif report.failed:
            self._ledger.fail(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Raise the exit code if the run is no pass; record; write the report."""
        if session.config.option.collectonly or not self._reports(session):
            return
        result = self._new_ledger().result()
        session.exitstatus = result.exit_code(int(session.exitstatus))
        records = self._record(result)
        if session.exitstatus == pytest.ExitCode.OK and any(record.refused for record in records):
            session.exitstatus = EXIT_ERROR
        self._report = self._assembled(result, records, int(session.exitstatus))
        if self._options.json is not None:
            self._write_json(self._options.json, self._report)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Write the summary of the gate to the terminal."""
        if self._report is None:
            return
        from sae_guard.render.terminal_summary import summary

        verbose = config.option.verbose > 0
        if lines := list(summary(self._report, verbose=verbose, spelling=spelled_options)):
            terminalreporter.section("sae guard")
            for line in lines:
                terminalreporter.write_line(line)

    def _expect(self, node_ids: list[str]) -> None:
        """Expect a report of these tests, if any of them belongs to a spec file."""
        # The plan takes slow imports, so a run without tests of the gate does not read it.
        run_plan = self._config.stash[RUN_PLAN]
        spec_files = {run_plan.display(path) for path in run_plan.spec_files}
        if any(node_id.partition("::")[0] in spec_files for node_id in node_ids):
            self._new_ledger().expect(node_ids)

    def _new_ledger(self) -> Ledger:
        if self._ledger is None:
            from sae_guard.gate.ledger import Ledger

            one_version = self._options.gate.is_one_version
            self._ledger = Ledger(self._plan(), one_version=one_version)
        return self._ledger

    def _plan(self) -> Plan:
        """Return the plan; an empty one if it is invalid, which the collection has reported."""
        from sae_guard.gate.planning import Plan

        try:
            return plan_of(self._config)
        except pytest.UsageError:
            return Plan((), ())

    def _reports(self, session: pytest.Session) -> bool:
        """Return whether the run has a report of the gate."""
        requested = self._options.gate.gates or self._options.json or self._recorder
        # Specs that gate nothing collect no test: the report says why.
        nothing_ran = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        idle_specs = nothing_ran and bool(self._config.stash[RUN_PLAN].spec_files)
        return bool(requested) or self._ledger is not None or idle_specs

    def _record(self, result: LedgerResult) -> tuple[RecordResult, ...]:
        if self._recorder is None:
            return ()

        from sae_guard.gate.recording import CaseResult

        return self._recorder.record_all(
            {
                case.ref: CaseResult(
                    result.report(case), self._judged(case), result.missing_verdict(case)
                )
                for case in self._plan().cases
                if self._new_ledger().expects_case(case)
            }
        )

    def _judged(self, case: Case) -> JudgedOrError | None:
        """Return the measurement of the case, by this process or a worker; None without one."""
        folder = self._config.stash.get(SHARED_FOLDER, None)
        if folder is None:
            return session_of(self._config).judged_before(case)
        from sae_guard.gate.early import key
        from sae_guard.pytest_plugin.sharing import SharedFolder

        result: JudgedOrError | None = SharedFolder(folder).stored(
            key(self._options.gate.early, case)
        )
        return result

    def _assembled(
        self, result: LedgerResult, records: tuple[RecordResult, ...], exit_code: int
    ) -> RunReport:
        from sae_guard.gate.run_report import assemble
        from sae_guard.gate.tracking import track

        plan, ledger = self._plan(), self._new_ledger()
        tested = [case for case in plan.cases if ledger.expects_case(case)]
        return assemble(
            plan,
            self._options.gate,
            result.cases,
            result.verdict(exit_code),
            exit_code,
            not_judged=result.not_judged,
            incomplete=result.incomplete,
            records=records,
            tracking=track(session_of(self._config).history, tested),
        )

    def _write_json(self, path: Path, report: RunReport) -> None:
        from sae_guard.core.report_json import report_to_json

        try:
            write_whole(path, report_to_json(report))
        except OSError as error:
            pytest.exit(f"--sae-json {path} cannot be written: {error}", EXIT_ERROR)
