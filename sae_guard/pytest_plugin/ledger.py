"""The controller's ledger: every expected threshold has a verdict, or the run is no pass.

A test whose report was lost (a crashed worker, a property that cannot cross processes) looks to
pytest like a test that never was; here it is an error.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.files import write_whole
from sae_guard.pytest_plugin.gate import Gate
from sae_guard.pytest_plugin.options import EXIT_ERROR
from sae_guard.pytest_plugin.spelling import spelled_options

if TYPE_CHECKING:
    from sae_guard.core.report import Outcome
    from sae_guard.pytest_plugin.recording import Recorder
    from sae_guard.pytest_plugin.tracking import Tracker
    from sae_guard.pytest_plugin.versions import Versions

_MISSING_SHOWN = 5


class Ledger:
    """Expected against reported node ids, and the outcomes; on the controller only."""

    def __init__(
        self, gate: Gate, versions: Versions, tracker: Tracker, recorder: Recorder | None = None
    ) -> None:
        self.gate = gate
        self.versions = versions
        self.tracker = tracker
        self.recorder = recorder
        self.outcomes: dict[str, Outcome] = {}
        self._expected: dict[str, None] = {}
        self._failed: set[str] = set()

    def expect(self, nodeids: Iterable[str]) -> None:
        """Note the tests that must be reported."""
        specs = {self.gate.display(path) for path in self.gate.spec_files}
        self._expected.update(dict.fromkeys(i for i in nodeids if i.split("::")[0] in specs))

    @property
    def missing(self) -> list[str]:
        """Expected tests that neither gave a verdict nor were reported as failed."""
        return [i for i in self._expected if i not in self.outcomes and i not in self._failed]

    @property
    def in_order(self) -> list[Outcome]:
        """The outcomes in the order of collection, whichever worker was first."""
        return [self.outcomes[i] for i in self._expected if i in self.outcomes]

    @property
    def without_verdict(self) -> list[str]:
        """Tests that ended in an error or in a failure that is no crossed threshold."""
        errors = [
            i
            for i, outcome in self.outcomes.items()
            if outcome.verdict == "error"
            or (outcome.verdict == "undecided" and outcome.kind == "contract")
        ]
        return [*errors, *(i for i in self._failed if i not in self.outcomes)]

    @property
    def crossed(self) -> list[str]:
        """Tests whose outcome is no pass, whatever pytest was told of them."""
        return [i for i, outcome in self.outcomes.items() if not outcome.passes]

    def tested(self, spec: str) -> bool:
        """Whether the run has tests of a spec, ``file::name``."""
        return any(nodeid.startswith(f"{spec}::") for nodeid in self._expected)

    def trouble(self, start: str, end: str) -> str | None:
        """Why the tests whose ids begin and end so leave something unsaid; empty where they do not,
        None where there are none."""
        ids = [i for i in self._expected if i.startswith(start) and i.endswith(end)]
        if not ids:
            return None
        broken = [i for i in self.without_verdict if i in ids]
        if broken:
            outcome = self.outcomes.get(broken[0])
            return f"{broken[0]} ended in an error: {outcome.message if outcome else 'no verdict'}"
        missing = [i for i in self.missing if i in ids]
        return f"{missing[0]} was not reported" if missing else ""

    def verdict(self, exitstatus: int) -> str:
        """``pass``, ``fail`` or ``error`` of the whole run."""
        if self.missing or self.without_verdict or exitstatus not in (0, 1):
            return "error"
        return "fail" if exitstatus or self.crossed else "pass"

    # hooks

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Serially, the controller collects itself."""
        self.expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """Under xdist only the workers collect."""
        self.expect(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome out of a report; keep failed tests that carry none."""
        if report.nodeid not in self._expected:
            return
        from sae_guard.core.report import Outcome

        outcome = Outcome.from_properties(report.user_properties)
        if report.failed:
            self._failed.add(report.nodeid)
        if outcome is not None and (report.when == "call" or report.failed):
            self.outcomes[report.nodeid] = outcome

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Raise the exit code where a pass would be wrong; write the JSON file."""
        if session.config.option.collectonly:
            return
        # -x and Ctrl-C leave tests unreported on purpose; those runs are no pass already.
        passed = session.exitstatus == pytest.ExitCode.OK
        if passed or session.exitstatus == pytest.ExitCode.TESTS_FAILED:
            if self.without_verdict or (passed and self.missing):
                session.exitstatus = EXIT_ERROR
            elif passed and self.crossed:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.recorder is not None:
            self.recorder.finish(self.trouble, self.outcomes.get)
            if self.recorder.refused and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = EXIT_ERROR
        if self._expected:
            self.tracker.look(self.tested)
        if self.gate.options.json is not None:
            self._write_json(int(session.exitstatus))

    def _write_json(self, exitstatus: int) -> None:
        from sae_guard.render import to_json

        path = self.gate.options.json
        if path is None:
            return
        text = to_json(
            self.in_order,
            verdict=self.verdict(exitstatus),
            version=importlib.metadata.version("sae-guard"),
            looser=self.tracker.rows(),
        )
        try:
            write_whole(path, text.encode())
        except OSError as error:
            pytest.exit(f"--sae-json {path} cannot be written: {error}", EXIT_ERROR)

    def pytest_terminal_summary(
        self, terminalreporter: Any, exitstatus: int, config: pytest.Config
    ) -> None:
        """The table of verdicts, and what was not gated and why."""
        nothing_ran = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        ours = self.gate.options.asked or self._expected or nothing_ran or self.recorder
        if config.option.collectonly or not ours:
            return
        from sae_guard.render import summary

        shown, more = self.missing[:_MISSING_SHOWN], len(self.missing) - _MISSING_SHOWN
        notes = [f"NO VERDICT: {i} was collected and never reported" for i in shown]
        notes += [f"NO VERDICT: and {more} more"] if more > 0 else []
        notes += self._not_gated(verbose=config.option.verbose > 0)
        notes += self.versions.lines()
        notes += self.tracker.lines()
        notes += self.recorder.lines() if self.recorder is not None else ()
        lines = list(summary(self.in_order, notes, spelling=spelled_options))
        if lines:
            terminalreporter.section("sae guard")
            for line in lines:
                terminalreporter.write_line(line)

    def _not_gated(self, *, verbose: bool) -> Iterable[str]:
        """Specs without a checkpoint; those of other hook points and models only with ``-v``."""
        for idle in self.gate.plan.idle:
            if idle.label is None or verbose:
                spec = f"{self.gate.display(idle.spec.file)}::{idle.spec.name}"
                checkpoint = f" [{idle.label}]" if idle.label else ""
                yield f"not gated: {spec}{checkpoint}: {idle.reason}"
