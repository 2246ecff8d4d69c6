"""The controller's side of a run: it takes the reports of tests, and ends the run with its own.

The plugin is registered on the controller only; under pytest-xdist the tests run elsewhere.
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
    """Notes the tests that are expected and reported, and raises the exit code where a pass would
    be wrong.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._ledger: Ledger | None = None
        self._recorder: Recorder | None = None
        self._report: RunReport | None = None

    def check_options(self) -> None:
        """Fail before the slow part where nothing can come of the run.

        Raises:
            pytest.UsageError: There is no spec, no case for a checkpoint, no such baseline, or no
                place to record or to write to.
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
                given = self._config.getoption("sae_json")
                raise pytest.UsageError(f"--sae-json {given}: {error}") from None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Serially, the controller collects itself."""
        self._expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """Under xdist only the workers collect."""
        self._expect(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the report of a test; note failed ones that carry none."""
        if self._ledger is None or not self._ledger.expects(report.nodeid):
            return
        try:
            attached = attached_report(report)
        except (ValueError, SaeGuardError) as error:
            self._ledger.reject(report.nodeid, str(error))
            return
        if attached is not None and (report.when == "call" or report.failed):
            self._ledger.add(report.nodeid, attached)
        elif report.failed:
            self._ledger.fail(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Raise the exit code where a pass would be wrong; record; write the report."""
        if session.config.option.collectonly or not self._reports(session):
            return
        result = self._new_ledger().result()
        session.exitstatus = result.exit_code(int(session.exitstatus))
        records = self._record(result)
        if session.exitstatus == pytest.ExitCode.OK and any(each.refused for each in records):
            session.exitstatus = EXIT_ERROR
        self._report = self._assembled(result, records, int(session.exitstatus))
        if self._options.json is not None:
            self._write_json(self._options.json, self._report)

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

    def _expect(self, node_ids: list[str]) -> None:
        """Read the plan only where tests of a spec file were collected: it takes imports."""
        run_plan = self._config.stash[RUN_PLAN]
        spec_files = {run_plan.display(path) for path in run_plan.spec_files}
        if any(node_id.partition("::")[0] in spec_files for node_id in node_ids):
            self._new_ledger().expect(node_ids)

    def _new_ledger(self) -> Ledger:
        if self._ledger is None:
            from sae_guard.gate.ledger import Ledger

            self._ledger = Ledger(self._plan())
        return self._ledger

    def _plan(self) -> Plan:
        """The plan; an empty one where it cannot be made, which its collection has reported."""
        from sae_guard.gate.planning import Plan

        try:
            return plan_of(self._config)
        except pytest.UsageError:
            return Plan((), ())

    def _reports(self, session: pytest.Session) -> bool:
        """Whether the run has anything to do with us."""
        asked = self._options.gate.gates or self._options.json or self._recorder
        nothing_ran = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        idle_specs = nothing_ran and bool(self._config.stash[RUN_PLAN].spec_files)
        return bool(asked) or self._ledger is not None or idle_specs

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
        """What was measured of the case, here or by a worker."""
        folder = self._config.stash.get(SHARED_FOLDER, None)
        if folder is None:
            return session_of(self._config).judged_before(case)
        from sae_guard.gate.early import key
        from sae_guard.pytest_plugin.sharing import SharedFolder

        return SharedFolder(folder).left(key(self._options.gate.early, case))

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
            records=records,
            tracking=track(session_of(self._config).history, tested),
        )

    def _write_json(self, path: Path, report: RunReport) -> None:
        from sae_guard.core.report_json import report_to_json

        try:
            write_whole(path, report_to_json(report))
        except OSError as error:
            pytest.exit(f"--sae-json {path} cannot be written: {error}", EXIT_ERROR)
