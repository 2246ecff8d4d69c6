"""Spec file → documents → one test per threshold and checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import SaeGuardError
from sae_guard.pytest_plugin.gate import GATE
from sae_guard.pytest_plugin.workbench import WORKBENCH

if TYPE_CHECKING:
    from sae_guard.measurement import Measurement
    from sae_guard.plan import Case
    from sae_guard.spec import Spec
    from sae_guard.verdicts import Threshold
    from sae_guard.wire import Outcome

_REPORTED = pytest.StashKey[dict[str, str]]()
_DIAGNOSED = pytest.StashKey[dict[str, str]]()


class ThresholdCrossed(Exception):
    """A threshold failed; the message is the failure text."""


class SpecFile(pytest.File):
    """A YAML file of specs."""

    def collect(self) -> Iterator[pytest.Collector]:
        """One collector per document; a malformed file is a collection error."""
        gate = self.config.stash[GATE]
        try:
            plan = gate.plan
            for spec in gate.specs_of(self.path):
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
        """One test per threshold of each checkpoint that the spec gates."""
        for case in self.config.stash[GATE].plan.of(self.spec):
            for threshold in case.thresholds:
                name = f"{threshold.metric}[{case.label}]"
                yield ThresholdItem.from_parent(
                    self,
                    name=name,
                    # As text: pytest 9 then parses the brackets as it does those in its cache,
                    # without which --lf does not know its own failures.
                    nodeid=f"{self.nodeid}::{name}",
                    case=case,
                    threshold=threshold,
                )


class ThresholdItem(pytest.Item):
    """One threshold: measuring is its setup, judging its call.

    So what keeps a verdict from being reached is an ERROR, and a crossed threshold a FAILURE.
    """

    def __init__(self, *, case: Case, threshold: Threshold, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.threshold = threshold
        self._measurement: Measurement | None = None

    def setup(self) -> None:
        """Measure the case, or take the measurement that another of its tests made."""
        from sae_guard.verdicts import Verdict

        try:
            self._measurement = self.config.stash[WORKBENCH].measurement(self.case)
        except SaeGuardError as error:
            self._record(Verdict(self.threshold, "error", cause=error.cause, message=str(error)))
            pytest.fail(self._error_text(error), pytrace=False)

    def runtest(self) -> None:
        """Judge the threshold; anything but a pass or a warning raises."""
        from sae_guard.diagnosis import diagnose
        from sae_guard.report import failure
        from sae_guard.verdicts import judge

        measurement = self._measurement
        if measurement is None:
            raise RuntimeError("setup did not run")
        verdict = judge(measurement, self.threshold)
        outcome = self._record(verdict, provenance=json.dumps(asdict(measurement.provenance)))
        if verdict.status not in ("pass", "warn"):
            first = self._first_of_case(_DIAGNOSED)
            told = diagnose(measurement) if first == self.nodeid else ()
            raise ThresholdCrossed(failure(outcome, told))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """The failure text as it is; whatever else happened, with its traceback."""
        if isinstance(excinfo.value, ThresholdCrossed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the threshold stands, for editors and reports."""
        line = self.threshold.line - 1 if self.threshold.line else None
        return self.path, line, f"{self.case.spec.name}::{self.name}"

    def _record(self, verdict: Any, provenance: str = "") -> Outcome:
        from sae_guard.wire import Outcome

        outcome = Outcome.of(
            verdict,
            spec=self.config.stash[GATE].display(self.path),
            name=self.case.spec.name,
            checkpoint=self.case.label,
            provenance=provenance,
        )
        self.user_properties.extend(outcome.to_properties())
        return outcome

    def _first_of_case(self, said: pytest.StashKey[dict[str, str]]) -> str:
        """Node id of the test that says what concerns all tests of the case."""
        return self.config.stash.setdefault(said, {}).setdefault(self.case.key, self.nodeid)

    def _error_text(self, error: SaeGuardError) -> str:
        """The whole error for the first test of the case, a pointer to it for the others."""
        first = self._first_of_case(_REPORTED)
        head = f"{error.cause} error: "
        return head + (str(error) if first == self.nodeid else f"not measured, see {first}")
