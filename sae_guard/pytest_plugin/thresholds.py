"""Thresholds: measure, then judge."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from sae_guard.errors import SaeGuardError
from sae_guard.pytest_plugin.case_item import CaseItem, Told
from sae_guard.pytest_plugin.diagnoses import DIAGNOSES
from sae_guard.pytest_plugin.session import WORKBENCH
from sae_guard.pytest_plugin.spelling import spelled_options
from sae_guard.pytest_plugin.versions import VERSIONS

if TYPE_CHECKING:
    from sae_guard.core.comparison import Baseline
    from sae_guard.core.diagnosis import Diagnosis
    from sae_guard.core.measurement import Measurement
    from sae_guard.core.report import Outcome
    from sae_guard.core.thresholds import Threshold
    from sae_guard.core.verdicts import Verdict
    from sae_guard.core.worst_tokens import Worst
    from sae_guard.gate.early import Judged

_DIAGNOSIS_CARRIED = pytest.StashKey[dict[str, str]]()
_EXPLAINED = pytest.StashKey[dict[str, str]]()
_WORST_CARRIED = pytest.StashKey[dict[int, str]]()
_WORST_SHOWN = pytest.StashKey[dict[str, str]]()


class ThresholdItem(CaseItem):
    """One threshold: measuring is its setup, judging its call.

    So what keeps a verdict from being reached is an ERROR, and a crossed threshold a FAILURE.
    """

    def __init__(self, *, threshold: Threshold, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.line = threshold.line
        self._judged: Judged | None = None
        self._baseline: Baseline | None = None
        self._diagnosis: Diagnosis | None = None

    def setup(self) -> None:
        """Measure the case, or take the measurement that another of its tests made; and read what
        it is compared with."""
        baseline = self._compared_with()
        if isinstance(baseline, SaeGuardError):
            self._no_verdict(baseline, f"{baseline.cause} error: {baseline}")
        found = self._measured()
        if isinstance(found, SaeGuardError):
            self._no_verdict(found, self.error_text(found))
        self._baseline, self._judged = baseline, found
        self._diagnosis = self.config.stash[DIAGNOSES].of(self.case, found.measurement)

    def runtest(self) -> None:
        """Judge the threshold; anything but a pass or a warning raises."""
        from sae_guard.core.diagnosis import Diagnosis
        from sae_guard.render import failure

        judged, diagnosis = self._judged, self._diagnosis
        if judged is None or diagnosis is None:
            raise RuntimeError("setup did not run")
        measurement = judged.measurement
        carried = self.first_of_case(_DIAGNOSIS_CARRIED) == self.nodeid and diagnosis != Diagnosis()
        outcome = self._record(
            judged.verdict(self.threshold, self._baseline),
            provenance=json.dumps(asdict(measurement.provenance)),
            worst=self._carried(measurement),
            diagnosis=diagnosis.json if carried else "",
        )
        if not outcome.passes:
            first = self.first_of_case(_EXPLAINED) == self.nodeid
            suspected = diagnosis if first else Diagnosis()
            worst = self._shown(measurement)
            raise Told(failure(outcome, suspected, worst, spelling=spelled_options))

    def _no_verdict(self, error: SaeGuardError, text: str) -> NoReturn:
        from sae_guard.core.verdicts import Verdict

        self._record(Verdict(self.threshold, "error", cause=error.cause, message=str(error)))
        pytest.fail(text, pytrace=False)

    def _compared_with(self) -> Baseline | SaeGuardError | None:
        try:
            return self.config.stash[VERSIONS].baseline(self.case, self.threshold)
        except SaeGuardError as error:
            return error

    def _measured(self) -> Judged | SaeGuardError:
        try:
            return self.config.stash[WORKBENCH].judged(self.case)
        except SaeGuardError as error:
            return error

    def _carried(self, measurement: Measurement) -> str:
        """The worst of the measurement, for reports, on one outcome of the case."""
        from sae_guard.core.worst_tokens import worst

        carried = self.config.stash.setdefault(_WORST_CARRIED, {})
        first = carried.setdefault(id(self.case), self.nodeid) == self.nodeid
        return worst(measurement).json if first else ""

    def _shown(self, measurement: Measurement) -> Worst | None:
        """The worst of what is looked at, in the first failure that it explains."""
        from sae_guard.core.worst_tokens import ABOUT, worst

        view = self.threshold.view
        if view.metric not in ABOUT or self.first_of_case(_WORST_SHOWN) != self.nodeid:
            return None
        return worst(measurement, tokens=3, sequences=2, slice=view.slice)

    def _record(self, verdict: Verdict, **carried: str) -> Outcome:
        from sae_guard.core.report import Outcome

        return self.record(Outcome.of(verdict, **self.identity, **carried))
