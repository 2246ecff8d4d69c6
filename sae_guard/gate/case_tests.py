"""The tests of a case, and how each is run: session → report of this part of the case.

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
from sae_guard.core.targets import Target, estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Status, Verdict, judge
from sae_guard.core.worst_tokens import worst
from sae_guard.errors import Cause, Contract, LoadError, Option, SaeGuardError, UndefinedMetricError
from sae_guard.gate.cases import Case
from sae_guard.gate.session import GateSession


@dataclass(frozen=True)
class CaseTest:
    """One test of a case: of a part of its load contract, a threshold, ``pareto``, ``controls``."""

    case: Case
    name: str
    """Within the case, such as ``load.keys`` or ``kl.p99``."""
    line: int
    """Where in the spec file it is asked for; 0 where it is not."""
    contract: Contract | None = None
    threshold: Threshold | None = None

    @property
    def node_id(self) -> str:
        """As pytest names it."""
        return self.case.ref.node_id(self.name)


@dataclass(frozen=True)
class Obstacle:
    """What kept a test from a verdict."""

    cause: Cause
    message: str
    contract: Contract | None = None
    """The part of the load contract that is broken, if one is."""
    concerns_case: bool = False
    """Whether every other test of the case meets it too."""
    options: tuple[Option, ...] = ()
    """Those that would help."""

    @classmethod
    def from_error(cls, error: SaeGuardError, *, concerns_case: bool = False) -> Obstacle:
        """Take over what an error says."""
        contract = error.contract if isinstance(error, LoadError) else None
        return cls(error.cause, str(error), contract, concerns_case, error.options)


@dataclass(frozen=True)
class TestRun:
    """What came of a test."""

    __test__ = False  # no class of tests, whatever pytest makes of its name

    report: CaseReport
    obstacle: Obstacle | None = None


def list_tests(case: Case) -> Iterator[CaseTest]:
    """List the tests of a case, in the order of reports."""
    for contract in get_args(Contract) if case.checkpoint else ():
        yield CaseTest(case, contract_test(contract), case.spec.line, contract=contract)
    for threshold in case.thresholds:
        yield CaseTest(case, str(threshold.target), threshold.line, threshold=threshold)
    if case.pareto is not None:
        yield CaseTest(case, PARETO, case.pareto.line)
    if case.compared:
        yield CaseTest(case, CONTROLS, 0)


def run(test: CaseTest, session: GateSession) -> TestRun:
    """Run one test. What goes wrong on the way is in its report."""
    if test.contract is not None:
        return _contract(test.case, test.contract, session)
    if test.threshold is not None:
        return _threshold(test, test.threshold, session)
    return (_pareto if test.name == PARETO else _controls)(test.case, session)


def report(case: Case, session: GateSession) -> CaseReport:
    """Run all tests of a case."""
    return merged([run(test, session).report for test in list_tests(case)])


def measured(measurement: Measurement) -> dict[str, Any]:
    """Give what a report says of every measured case: how much was measured, and of what."""
    return {
        "sample": Sample(measurement.n_tokens, measurement.n_sequences, measurement.n_whole),
        "provenance": measurement.provenance,
    }


def metric_values(measurement: Measurement) -> tuple[MetricValue, ...]:
    """Give the value of every metric on the whole token set, or why it has none."""
    return tuple(metric_value(measurement, Target(name)) for name in METRICS)


def metric_value(measurement: Measurement, target: Target) -> MetricValue:
    """Give the value of a target on the whole token set, or why it has none."""
    try:
        value = estimate(measurement, target)
    except UndefinedMetricError as error:
        return MetricValue(target, undefined=str(error))
    if not math.isfinite(value.value):
        return MetricValue(target, undefined=f"it is {value.value}")
    return MetricValue(target, value)


def _contract(case: Case, contract: Contract, session: GateSession) -> TestRun:
    """Check a part of the load contract. Another part that is broken leaves it undecided."""
    error = _contract_error(case, contract, session)
    if error is None:
        return TestRun(CaseReport(case.ref, contracts=(ContractResult(contract, "pass"),)))
    other_part = isinstance(error, LoadError) and error.contract != contract
    status: Status = "undecided" if other_part else "error"
    part = ContractResult(contract, status, error.cause, str(error))
    obstacle = Obstacle.from_error(error, concerns_case=True)
    return TestRun(CaseReport(case.ref, contracts=(part,)), obstacle)


def _contract_error(case: Case, contract: Contract, session: GateSession) -> SaeGuardError | None:
    try:
        session.check(case, contract)
    except LoadError as error:
        # It was read, or no other part could have been broken.
        read = contract == "readable" and error.contract != "readable"
        return None if read else error
    except SaeGuardError as error:
        return error
    return None


def _threshold(test: CaseTest, threshold: Threshold, session: GateSession) -> TestRun:
    """Measure the case, or take the measurement that another of its tests made, and judge."""
    case = test.case
    try:
        baseline = session.baseline(case, threshold)
    except SaeGuardError as error:
        return _without_verdict(case, threshold, Obstacle.from_error(error))
    try:
        judged = session.judged(case)
    except SaeGuardError as error:
        obstacle = Obstacle.from_error(error, concerns_case=True)
        return _without_verdict(case, threshold, obstacle)
    measurement = judged.measurement
    diagnosis = session.diagnosis(case, measurement)
    parts: dict[str, Any] = measured(measurement)
    if session.carries(case, test.name):  # once is enough: the texts are long
        parts |= {
            "metrics": metric_values(measurement) if measurement.whole else (),
            "diagnosis": None if diagnosis == Diagnosis() else diagnosis,
            "worst": worst(measurement),
        }
    verdict = judged.verdict(threshold, baseline)
    return TestRun(CaseReport(case.ref, verdicts=(verdict,), **parts))


def _without_verdict(case: Case, threshold: Threshold, obstacle: Obstacle) -> TestRun:
    verdict = Verdict(threshold, "error", cause=obstacle.cause, message=obstacle.message)
    return TestRun(CaseReport(case.ref, verdicts=(verdict,)), obstacle)


def _pareto(case: Case, session: GateSession) -> TestRun:
    assert case.pareto is not None
    try:
        comparison = session.pareto(case, session.measurement(case))
    except SaeGuardError as error:
        result = ParetoResult(case.pareto, "error", cause=error.cause, message=str(error))
        return TestRun(CaseReport(case.ref, pareto=result), Obstacle.from_error(error))
    assert comparison is not None
    status: Status = "pass" if comparison.passes else "fail"
    return TestRun(CaseReport(case.ref, pareto=ParetoResult(case.pareto, status, comparison)))


def _controls(case: Case, session: GateSession) -> TestRun:
    """Measure the controls of a checkpoint. Not to beat a null model is a warning."""
    known = [each for each in session.cases if each.control and each.spec is case.spec]
    null_models = {each.control: each for each in case.baselines}
    controls = {**null_models, **{each.control: each for each in reversed(known)}}
    rows: dict[str, Row] = {}
    for name, each in {CHECKPOINT: case, **controls}.items():
        try:
            measurement = session.measurement(each)
        except SaeGuardError as error:
            return _without_controls(case, Obstacle.from_error(error, concerns_case=True))
        verdict = judge(measurement, Threshold("kl", max=math.inf))
        if verdict.status == "error":
            message = f"{each.member}: {verdict.message}"
            return _without_controls(case, Obstacle(verdict.cause or "setup", message))
        rows[name] = row(measurement)
        if name == CHECKPOINT:
            rows[RANDOM_ERROR] = row_of_random_error(measurement)
    warning = "; ".join(not_beaten(rows[CHECKPOINT], {name: rows[name] for name in null_models}))
    result = ControlsResult("warn" if warning else "pass", rows, message=warning)
    return TestRun(CaseReport(case.ref, controls=result))


def _without_controls(case: Case, obstacle: Obstacle) -> TestRun:
    result = ControlsResult("error", {}, obstacle.cause, obstacle.message)
    return TestRun(CaseReport(case.ref, controls=result), obstacle)
