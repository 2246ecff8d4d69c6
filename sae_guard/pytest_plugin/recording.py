"""``--sae-record NAME``: a record of each checkpoint at each spec, written by the controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.pareto import ParetoVerdict
    from sae_guard.core.report import Outcome
    from sae_guard.gate.cases import Case
    from sae_guard.gate.early import EarlyOptions
    from sae_guard.gate.recording import Occasion
    from sae_guard.gate.session import Found
    from sae_guard.history import History
    from sae_guard.pytest_plugin.gate import Gate
    from sae_guard.pytest_plugin.versions import Versions

Find = Callable[["Case"], "Found | None"]


class Recorder:
    """Records what was measured, once all is told; on the controller only."""

    def __init__(
        self, history: History, occasion: Occasion, gate: Gate, versions: Versions, find: Find
    ) -> None:
        self._history = history
        self._versions = versions
        self._occasion = occasion
        self._gate = gate
        self._find = find
        self.refused: list[str] = []
        """Cases that are not recorded, and why."""
        self._recorded: list[str] = []

    @classmethod
    def of(
        cls, config: pytest.Config, gate: Gate, versions: Versions, find: Find
    ) -> Recorder | None:
        """The recorder that the command line asks for.

        Raises:
            pytest.UsageError: The name is none, the history cannot be written, or the run would
                end before all is measured.
        """
        name: str | None = config.getoption("sae_record")
        if name is None:
            return None
        from sae_guard.gate.recording import Occasion
        from sae_guard.history import History, store

        root = gate.options.root
        history = History(store.chosen(config.getini("sae_history"), root))
        try:
            occasion = Occasion.of(name, root)
            history.prepare()
        except SaeGuardError as error:
            raise pytest.UsageError(f"--sae-record: {error}") from None
        if gate.options.asked:
            _check_whole(gate.options.early, gate.plan.cases)
        return cls(history, occasion, gate, versions, find)

    def finish(
        self,
        trouble: Callable[[str, str], str | None],
        outcome: Callable[[str], Outcome | None],
    ) -> None:
        """Record the cases of the run.

        Args:
            trouble: Of the tests whose ids begin and end so: why the case has no verdicts; empty
                where all is well, None where there are no such tests.
            outcome: Of the test of this id.
        """
        for case in self._gate.plan.cases:
            if case.checkpoint is None:
                continue
            file = self._gate.display(case.spec.file)
            start, end = f"{file}::{case.spec.name}::", f"[{case.label}]"
            wrong = trouble(start, end)
            if wrong is None:
                continue
            pareto = outcome(f"{start}pareto{end}")
            try:
                self._recorded.append(self._record(case, file, wrong, pareto))
            except SaeGuardError as error:
                self.refused.append(f"{file}::{case.spec.name} [{case.label}]: {error}")
        if not (self._recorded or self.refused):
            self.refused.append("no checkpoint was gated")

    def _record(self, case: Case, file: str, wrong: str, told: Outcome | None) -> str:
        from sae_guard.gate.recording import make
        from sae_guard.history import NotRecordedError

        if wrong:
            raise NotRecordedError(wrong)
        found = self._find(case)
        if found is None:
            raise NotRecordedError("it was not measured: no threshold was tested")
        if isinstance(found, SaeGuardError):
            raise NotRecordedError(str(found))
        verdicts = [
            found.verdict(threshold, self._versions.baseline(case, threshold))
            for threshold in case.thresholds
        ]
        pareto = self._pareto(case, found.measurement, told)
        occasion = self._occasion
        made = make(case, found.measurement, verdicts, occasion, file=file, pareto=pareto)
        return self._history.add(*made).path

    def _pareto(
        self, case: Case, measurement: Measurement, told: Outcome | None
    ) -> ParetoVerdict | None:
        """As its test told it: records may have come since. Anew where that was deselected."""
        from sae_guard.core.pareto import ParetoVerdict

        if case.pareto is not None and told is not None:
            return ParetoVerdict.of_json(told.pareto)
        return self._versions.pareto(case, measurement)

    def lines(self) -> Iterator[str]:
        """What was recorded where, and what was not and why."""
        root = self._gate.options.root
        for path in self._recorded:
            inside = "://" not in path and Path(path).is_relative_to(root)
            yield f"recorded: {Path(path).relative_to(root).as_posix() if inside else path}"
        for line in self.refused:
            yield f"NOT RECORDED: {line}"


def _check_whole(early: EarlyOptions, cases: Sequence[Case]) -> None:
    """Raise `pytest.UsageError` where early verdicts would leave estimates instead of metrics."""
    for case in cases:
        if early.alpha_for(case.spec) is not None and not early.audit:
            raise pytest.UsageError(
                f"--sae-record {case.label}: a record is of all sequences, and early verdicts "
                "(--sae-fast, --sae-alpha, a budget, or `fast` in the spec) end before: add "
                "--sae-audit"
            )
