"""Thresholds: measure, then judge."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import SaeGuardError
from sae_guard.pytest_plugin.case_item import CaseItem, Told
from sae_guard.pytest_plugin.diagnoses import DIAGNOSES
from sae_guard.pytest_plugin.workbench import WORKBENCH

if TYPE_CHECKING:
    from sae_guard.diagnosis import Diagnosis
    from sae_guard.measurement import Measurement
    from sae_guard.verdicts import Threshold, Verdict
    from sae_guard.wire import Outcome

_CARRIED = pytest.StashKey[dict[str, str]]()
_EXPLAINED = pytest.StashKey[dict[str, str]]()


class ThresholdItem(CaseItem):
    """One threshold: measuring is its setup, judging its call.

    So what keeps a verdict from being reached is an ERROR, and a crossed threshold a FAILURE.
    """

    def __init__(self, *, threshold: Threshold, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.line = threshold.line
        self._measurement: Measurement | None = None
        self._diagnosis: Diagnosis | None = None

    def setup(self) -> None:
        """Measure the case, or take the measurement that another of its tests made."""
        from sae_guard.verdicts import Verdict

        found = self._measured()
        if isinstance(found, SaeGuardError):
            self._record(Verdict(self.threshold, "error", cause=found.cause, message=str(found)))
            pytest.fail(self.error_text(found), pytrace=False)
        self._measurement = found
        self._diagnosis = self.config.stash[DIAGNOSES].of(self.case, found)

    def runtest(self) -> None:
        """Judge the threshold; anything but a pass or a warning raises."""
        from sae_guard.diagnosis import Diagnosis
        from sae_guard.report import failure
        from sae_guard.verdicts import judge

        measurement, diagnosis = self._measurement, self._diagnosis
        if measurement is None or diagnosis is None:
            raise RuntimeError("setup did not run")
        verdict = judge(measurement, self.threshold)
        carried = self.first_of_case(_CARRIED) == self.nodeid and diagnosis != Diagnosis()
        outcome = self._record(
            verdict,
            provenance=json.dumps(asdict(measurement.provenance)),
            diagnosis=diagnosis.json if carried else "",
        )
        if not outcome.passes:
            first = self.first_of_case(_EXPLAINED) == self.nodeid
            raise Told(failure(outcome, diagnosis if first else Diagnosis()))

    def _measured(self) -> Measurement | SaeGuardError:
        try:
            return self.config.stash[WORKBENCH].measurement(self.case)
        except SaeGuardError as error:
            return error

    def _record(self, verdict: Verdict, **carried: str) -> Outcome:
        from sae_guard.wire import Outcome

        return self.record(Outcome.of(verdict, **self.identity, **carried))
