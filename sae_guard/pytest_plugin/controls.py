"""What controls get beside a checkpoint: no verdict on it, but what its verdicts are worth."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from sae_guard.errors import SaeGuardError
from sae_guard.pytest_plugin.case_item import CaseItem
from sae_guard.pytest_plugin.gate import GATE
from sae_guard.pytest_plugin.session import WORKBENCH

if TYPE_CHECKING:
    from sae_guard.core.controls import Row
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.verdicts import Status
    from sae_guard.errors import Cause
    from sae_guard.gate.cases import Case


class ControlsItem(CaseItem):
    """Measures the controls of one checkpoint. It passes, with a warning where the checkpoint does
    not beat a baseline; a control that cannot be measured is an ERROR.
    """

    _rows: dict[str, Row]

    def setup(self) -> None:
        """Measure the checkpoint and its controls, or take what other tests measured."""
        from sae_guard.core.controls import CHECKPOINT, RANDOM_ERROR, row, row_of_random_error

        own = self._measured(self.case)
        self._rows = {CHECKPOINT: row(own), RANDOM_ERROR: row_of_random_error(own)}
        of_spec = self.config.stash[GATE].plan.of(self.case.spec)
        known = [case for case in of_spec if case.control]
        for case in (*self.case.baselines, *reversed(known)):
            self._rows[case.control] = row(self._measured(case))

    def runtest(self) -> None:
        """Say what was found."""
        from sae_guard.core.controls import CHECKPOINT, not_beaten

        baselines = {case.control: self._rows[case.control] for case in self.case.baselines}
        told = "; ".join(not_beaten(self._rows[CHECKPOINT], baselines))
        self._record("warn" if told else "pass", message=told, controls=json.dumps(self._rows))

    def _measured(self, case: Case) -> Measurement:
        from sae_guard.core.thresholds import Threshold
        from sae_guard.core.verdicts import judge

        try:
            measurement = self.config.stash[WORKBENCH].measurement(case)
        except SaeGuardError as error:
            self._record("error", cause=error.cause, message=str(error))
            pytest.fail(self.error_text(error), pytrace=False)
        verdict = judge(measurement, Threshold("kl", max=math.inf))
        if verdict.status == "error":
            told = f"{case.label}: {verdict.message}"
            self._record("error", cause=verdict.cause, message=told)
            pytest.fail(f"{verdict.cause} error: {told}", pytrace=False)
        return measurement

    def _record(
        self, verdict: Status, *, cause: Cause | None = None, message: str = "", controls: str = ""
    ) -> None:
        from sae_guard.core.report import Outcome

        self.record(
            Outcome(
                **self.identity,
                kind="controls",
                metric="controls",
                verdict=verdict,
                cause=cause,
                message=message,
                controls=controls,
            )
        )
