"""The tests of a case. Each one runs in a session, and reports its part of the case.

pytest runs them one by one; `report` runs them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from sae_guard.core.controls import (
    CHECKPOINT,
    RANDOM_ERROR,
    Row,
    not_beaten,
    row,
    row_of_random_error,
)
from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import (
    CONTROLS,
    PARETO,
    CaseReport,
    ContractResult,
    ControlsResult,
    MetricValue,
    ParetoResult,
    Sample,
    contract_test,
    merged,
)
from sae_guard.core.targets import Target
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Status, Verdict, judge
from sae_guard.core.worst_tokens import worst
from sae_guard.errors import (
    Contract,
    LoadError,
    SaeGuardError,
    SetupError,
)
from sae_guard.gate.cases import Case
from sae_guard.gate.session import GateSession
from sae_guard.history.verification import estimate_or_reason


@dataclass(frozen=True)
class CaseTest:
    """Test of a case: a part of its load contract, a threshold, ``pareto`` or ``controls``."""

    case: Case
    name: str
    """Name within the case, such as ``load.keys`` or ``kl.p99``."""
    line: int
    """Line of the spec file that sets it; 0 for a test that no line sets."""
    contract: Contract | None = None
    threshold: Threshold | None = None

    @property
    def node_id(self) -> str:
        """Node id of the test in pytest."""
        return self.case.ref.node_id(self.name)


@dataclass(frozen=True)
class TestRun:
    """Report of a test, and the error that kept it from a verdict, if there was one."""

    __test__ = False  # pytest would collect the class because of its name

    report: CaseReport
    error: SaeGuardError | None = None
    concerns_case: bool = False
    """True where the error keeps every other test of the case from a verdict, too."""


def list_tests(case: Case) -> Iterator[CaseTest]:
    """Yield the tests of a case, in the order of reports."""
    for contract in get_args(Contract) if case.checkpoint else ():
        yield CaseTest(case, contract_test(contract), case.spec.line, contract=contract)
    for threshold in case.thresholds:
        yield CaseTest(case, str(threshold.target), threshold.line, threshold=threshold)
    if case.pareto is not None:
        yield CaseTest(case, PARETO, case.pareto.line)
    if case.compared:
        yield CaseTest(case, CONTROLS, 0)


def run(test: CaseTest, session: GateSession) -> TestRun:
    """Run one test. Errors of sae_guard are not raised: the report contains them."""
    if test.contract is not None:
        return _contract(test.case, test.contract, session)
    if test.threshold is not None:
        return _threshold(test, test.threshold, session)
    return (_pareto if test.name == PARETO else _controls)(test.case, session)


def report(case: Case, session: GateSession) -> CaseReport:
    """Run all tests of a case, and merge their reports."""
    return merged([run(test, session).report for test in list_tests(case)])


def measured(measurement: Measurement) -> dict[str, Any]:
    """Return the fields that the report of every measured case has: sample and provenance."""
    return {
        "sample": Sample(measurement.n_tokens, measurement.n_sequences, measurement.n_whole),
        "provenance": measurement.provenance,
    }


def metric_values(measurement: Measurement) -> tuple[MetricValue, ...]:
    """Return every metric on the whole token set: its value, or the reason why it has none."""
    return tuple(metric_value(measurement, Target(name)) for name in METRICS)


def metric_value(measurement: Measurement, target: Target) -> MetricValue:
    """Return a target on the whole token set: its value, or the reason why it has none."""
    return MetricValue(target, *estimate_or_reason(measurement, target))


def _contract(case: Case, contract: Contract, session: GateSession) -> TestRun:
    """Check a part of the load contract; it is undecided where another part is broken."""
    error = _contract_error(case, contract, session)
    if error is None:
        return TestRun(CaseReport(case.ref, contracts=(ContractResult(contract, "pass"),)))
    other_part = isinstance(error, LoadError) and error.contract != contract
    status: Status = "undecided" if other_part else "error"
    part = ContractResult(contract, status, error.cause, str(error))
    return TestRun(CaseReport(case.ref, contracts=(part,)), error, concerns_case=True)


def _contract_error(case: Case, contract: Contract, session: GateSession) -> SaeGuardError | None:
    try:
        session.check(case, contract)
    except LoadError as error:
        # Another part can only be broken once the file is read.
        is_readable = contract == "readable" and error.contract != "readable"
        return None if is_readable else error
    except SaeGuardError as error:
        return error
    return None


def _threshold(test: CaseTest, threshold: Threshold, session: GateSession) -> TestRun:
    """Judge a threshold. The first test of the case measures it for all of them."""
    case = test.case
    try:
        baseline = session.baseline(case, threshold)
    except SaeGuardError as error:
        return _without_verdict(case, threshold, error)
    try:
        judged = session.judged(case)
    except SaeGuardError as error:
        return _without_verdict(case, threshold, error, concerns_case=True)
    measurement = judged.measurement
    parts: dict[str, Any] = measured(measurement)
    if session.is_first_test(case, test.name):  # only one report carries these long texts
        diagnosis = session.diagnosis(case, measurement)
        parts |= {
            "metrics": metric_values(measurement) if measurement.whole else (),
            "diagnosis": None if diagnosis == Diagnosis() else diagnosis,
            "worst": worst(measurement),
        }
    verdict = judged.verdict(threshold, baseline)
    return TestRun(CaseReport(case.ref, verdicts=(verdict,), **parts))


def _without_verdict(
    case: Case, threshold: Threshold, error: SaeGuardError, *, concerns_case: bool = False
) -> TestRun:
    verdict = Verdict(threshold, "error", cause=error.cause, message=str(error))
    return TestRun(CaseReport(case.ref, verdicts=(verdict,)), error, concerns_case)


def _pareto(case: Case, session: GateSession) -> TestRun:
    assert case.pareto is not None
    try:
        comparison = session.baselines.pareto(case, session.measurement(case))
    except SaeGuardError as error:
        result = ParetoResult(case.pareto, "error", cause=error.cause, message=str(error))
        return TestRun(CaseReport(case.ref, pareto=result), error)
    assert comparison is not None
    result = ParetoResult(case.pareto, comparison.status, comparison)
    return TestRun(CaseReport(case.ref, pareto=result))


def _controls(case: Case, session: GateSession) -> TestRun:
    """Measure the controls of a checkpoint; warn where it is not better than a null model."""
    of_spec = [other for other in session.cases if other.control and other.spec is case.spec]
    null_models = {baseline.control: baseline for baseline in case.baselines}
    controls = {**null_models, **{control.control: control for control in reversed(of_spec)}}
    rows: dict[str, Row] = {}
    for name, measured_case in {CHECKPOINT: case, **controls}.items():
        try:
            measurement = session.measurement(measured_case)
        except SaeGuardError as error:
            return _without_controls(case, error, concerns_case=True)
        # Every KL is within this bound: what is left is whether it is defined, and if not, whose
        # fault.
        verdict = judge(measurement, Threshold("kl", max=math.inf))
        if verdict.status == "error":
            kind = LoadError if verdict.cause == "load" else SetupError
            return _without_controls(case, kind(f"{measured_case.member}: {verdict.message}"))
        rows[name] = row(measurement)
        if name == CHECKPOINT:
            rows[RANDOM_ERROR] = row_of_random_error(measurement)
    warning = "; ".join(not_beaten(rows[CHECKPOINT], {name: rows[name] for name in null_models}))
    result = ControlsResult("warn" if warning else "pass", rows, message=warning)
    return TestRun(CaseReport(case.ref, controls=result))


def _without_controls(case: Case, error: SaeGuardError, *, concerns_case: bool = False) -> TestRun:
    result = ControlsResult("error", {}, error.cause, str(error))
    return TestRun(CaseReport(case.ref, controls=result), error, concerns_case)
