"""The report of each kind of test of a case: pass, failure and error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from sae_guard.core.controls import CHECKPOINT, RANDOM_ERROR
from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseReport, ContractResult
from sae_guard.errors import (
    Contract,
    InfrastructureError,
    LoadError,
    SaeGuardError,
    SetupError,
)
from sae_guard.gate import case_tests
from sae_guard.gate.case_tests import CaseTest, TestRun
from sae_guard.gate.cases import CONTROLS, PERMUTED, RANDOM, Case
from sae_guard.gate.options import EarlyOptions, GateOptions
from sae_guard.gate.session import GateSession
from sae_guard.history import History
from tests.helpers.canned_session import can
from tests.helpers.planned import plan_of, spec
from tests.helpers.recorded import ordinary, record_one, with_tokens

PARTS = get_args(Contract)
CHANGE = spec("tiny").replace("max: 0.1", "max: 0.1, max_increase: 2%")
PARETO = spec("tiny").replace("thresholds: {", "thresholds: {pareto: {x: l0, y: kl}, ")


def session_of(
    cases: tuple[Case, ...], root: Path = Path("/project"), **options: object
) -> GateSession:
    """Make the session that measures the cases, on the CPU and without a cache."""
    gate = GateOptions(root, root, device="cpu", cache="off", **options)  # type: ignore[arg-type]
    return GateSession(gate, lambda: cases)


def find_test(case: Case, name: str) -> CaseTest:
    """Return the test of a case with this name."""
    (case_test,) = (test for test in case_tests.list_tests(case) if test.name == name)
    return case_test


def run(session: GateSession, name: str) -> TestRun:
    """Run this test of the first case."""
    return case_tests.run(find_test(session.cases[0], name), session)


def test_the_tests_of_a_case_are_in_the_order_of_reports() -> None:
    checkpoint, *controls = plan_of(PARETO, controls=True).cases
    tests = list(case_tests.list_tests(checkpoint))
    names = [f"load.{part}" for part in PARTS]
    assert [test.name for test in tests] == [*names, "kl", "l0", "pareto", "controls"]
    assert [test.contract for test in tests[: len(PARTS)]] == list(PARTS)
    assert tests[0].node_id == "thresholds/s.yaml::tiny::load.readable[v1]"
    assert [test.line for test in tests] == [1] * len(PARTS) + [5, 5, 5, 0]
    for control in controls:
        kinds = [test.threshold for test in case_tests.list_tests(control)]
        assert kinds == list(CONTROLS[control.control])


# ---- load contract ------------------------------------------------------------------------------


def broken(monkeypatch: pytest.MonkeyPatch, error: SaeGuardError) -> GateSession:
    """Make a session in which every check of the load contract raises this error."""

    def check(self: GateSession, case: Case, contract: Contract) -> None:
        raise error

    monkeypatch.setattr(GateSession, "check", check)
    return session_of(plan_of(spec("tiny")).cases)


def test_a_part_of_the_contract_that_holds_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    can(monkeypatch, lambda _: ordinary())
    session = session_of(plan_of(spec("tiny")).cases)
    for part in PARTS:
        result = run(session, f"load.{part}")
        assert result.report.contracts == (ContractResult(part, "pass"),)
        assert result.error is None


def test_a_broken_part_is_an_error_and_the_other_parts_are_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = LoadError("W_dec is missing", "keys", options=("architecture",))
    session = broken(monkeypatch, error)
    for part in PARTS:
        result = run(session, f"load.{part}")
        (contract,) = result.report.contracts
        if part == "readable":  # its keys could not be checked otherwise
            assert (contract.status, result.error) == ("pass", None)
            continue
        assert contract.status == ("error" if part == "keys" else "undecided")
        assert (contract.cause, contract.message) == ("load", "W_dec is missing")
        assert (result.error, result.concerns_case) == (error, True)
        assert result.report.errors == {f"load.{part}": "W_dec is missing"}


def test_an_unreadable_file_leaves_all_other_parts_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = broken(monkeypatch, LoadError("it ends early", "readable"))
    statuses = {part: run(session, f"load.{part}").report for part in PARTS}
    assert statuses["readable"].contracts[0].status == "error"
    assert {statuses[part].contracts[0].status for part in PARTS[1:]} == {"undecided"}


def test_an_error_outside_the_checkpoint_is_an_error_of_every_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = InfrastructureError("no network")
    session = broken(monkeypatch, error)
    for part in PARTS:
        result = run(session, f"load.{part}")
        assert [(part.status, part.cause) for part in result.report.contracts] == [
            ("error", "infrastructure")
        ]
        assert (result.error, result.concerns_case) == (error, True)


# ---- thresholds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kl", "status"), [(0.05, "pass"), (0.3, "fail")])
def test_a_threshold_is_judged_on_the_measurement_of_the_case(
    monkeypatch: pytest.MonkeyPatch, kl: float, status: str
) -> None:
    measurement = with_tokens(ordinary(kl))
    measured_cases = can(monkeypatch, lambda _: measurement)
    session = session_of(plan_of(spec("tiny")).cases)
    result = run(session, "kl")
    (verdict,) = result.report.verdicts
    assert (verdict.status, verdict.value) == (status, measurement["kl"])
    assert verdict.threshold == session.cases[0].thresholds[0]
    assert result.error is None
    assert result.report.provenance == measurement.provenance
    assert result.report.sample is not None
    assert (result.report.sample.n_tokens, result.report.sample.n_sequences) == (800, 8)
    assert run(session, "l0").report.verdicts[0].status == "pass"
    assert len(measured_cases) == 1


def test_only_the_first_test_of_a_case_reports_metrics_and_worst_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diagnosis = Diagnosis(tried=("k = 32",))
    can(monkeypatch, lambda _: with_tokens(ordinary()), diagnosis=diagnosis)
    session = session_of(plan_of(spec("tiny"), members=("v1", "v2")).cases)
    for case in session.cases:
        first, second = (
            case_tests.run(find_test(case, name), session).report for name in ("kl", "l0")
        )
        assert [value.target.metric for value in first.metrics] == list(METRICS)
        assert first.diagnosis == diagnosis
        assert first.worst is not None
        assert first.worst.tokens
        assert (second.metrics, second.diagnosis, second.worst) == ((), None, None)
        assert second.sample == first.sample
        again = case_tests.run(find_test(case, "kl"), session).report
        assert again == first


def test_an_empty_diagnosis_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    can(monkeypatch, lambda _: ordinary())
    report = run(session_of(plan_of(spec("tiny")).cases), "kl").report
    assert report.diagnosis is None


def test_an_undefined_metric_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    can(monkeypatch, lambda _: ordinary())
    metrics = run(session_of(plan_of(spec("tiny")).cases), "kl").report.metrics
    values = {value.target.metric: value for value in metrics}
    assert values["kl"].estimate == ordinary().estimate("kl")
    assert values["dead_latents"].estimate is None
    assert "raise `sequences`" in values["dead_latents"].undefined
    assert "was not measured" in values["kl_random_error"].undefined


def test_a_case_that_cannot_be_measured_is_an_error_of_every_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = InfrastructureError("out of memory", options=("batch_size",))
    measured_cases = can(monkeypatch, lambda _: error)
    session = session_of(plan_of(spec("tiny")).cases)
    for name in ("kl", "l0"):
        result = run(session, name)
        (verdict,) = result.report.verdicts
        assert (verdict.status, verdict.cause) == ("error", "infrastructure")
        assert (verdict.estimate, verdict.message) == (None, "out of memory")
        assert (result.error, result.concerns_case) == (error, True)
        assert result.report == CaseReport(session.cases[0].ref, verdicts=(verdict,))
    assert len(measured_cases) == 1


def test_a_threshold_on_an_undefined_metric_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "kl": np.full(8, math.nan)})
    can(monkeypatch, lambda _: broken)
    result = run(session_of(plan_of(spec("tiny")).cases), "kl")
    (verdict,) = result.report.verdicts
    assert (verdict.status, verdict.cause, result.error) == ("error", "load", None)
    assert result.report.provenance == broken.provenance
    assert result.report.errors == {"kl": verdict.message}


def test_without_a_baseline_only_the_threshold_on_a_change_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured_cases = can(monkeypatch, lambda _: ordinary())
    session = session_of(plan_of(CHANGE).cases, tmp_path)
    result = run(session, "kl.change")
    (verdict,) = result.report.verdicts
    assert (verdict.status, verdict.cause) == ("error", "setup")
    assert verdict.message.startswith("kl.change needs a baseline (thresholds/s.yaml:5)")
    assert (str(result.error), result.concerns_case) == (verdict.message, False)
    assert result.error is not None
    assert (result.error.cause, result.error.options) == ("setup", ("baseline",))
    assert measured_cases == []
    assert run(session, "kl").report.verdicts[0].status == "pass"


def test_a_change_is_judged_against_the_baseline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record_one(
        History(str(tmp_path / ".sae_guard" / "history")), tmp_path, ordinary(),
        display="thresholds/s.yaml",
    )  # fmt: skip
    can(monkeypatch, lambda _: ordinary(0.06))
    text = CHANGE.replace("hook_resid_pre", "hook_resid_post")
    session = session_of(plan_of(text).cases, tmp_path, baseline="v1")
    (verdict,) = run(session, "kl.change").report.verdicts
    assert verdict.status == "fail"
    assert verdict.change is not None
    assert (verdict.change.before, verdict.change.after) == (
        ordinary()["kl"], ordinary(0.06)["kl"],
    )  # fmt: skip


def test_an_early_measurement_gives_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    part = ordinary(n=4)
    can(monkeypatch, lambda _: part)
    early = EarlyOptions(max_sequences=4)
    report = run(session_of(plan_of(spec("tiny")).cases, early=early), "kl").report
    (verdict,) = report.verdicts
    assert verdict.status == "undecided"
    assert verdict.message == "the limit of 4 sequences ended the run after 4 of 8 sequences"
    assert report.metrics == ()
    assert report.sample is not None
    assert (report.sample.n_sequences, report.sample.n_whole) == (4, 8)


# ---- pareto -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kl", "status"), [(0.04, "pass"), (0.3, "fail")])
def test_pareto_compares_the_case_with_the_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kl: float, status: str
) -> None:
    recorded = record_one(
        History(str(tmp_path / ".sae_guard" / "history")), tmp_path, ordinary(),
        display="thresholds/s.yaml",
    )  # fmt: skip
    can(monkeypatch, lambda _: ordinary(kl))
    session = session_of(plan_of(PARETO).cases, tmp_path)
    result = run(session, "pareto")
    pareto = result.report.pareto
    assert pareto is not None
    assert pareto.comparison is not None
    assert (pareto.status, pareto.cause, result.error) == (status, None, None)
    assert pareto.comparison.point.y == ordinary(kl)["kl"]
    assert [point.name for point in pareto.comparison.others] == [f"v1 ({recorded.short})"]
    assert result.report.crossed == (["pareto"] if status == "fail" else [])


@pytest.mark.parametrize(
    ("result", "cause", "message"),
    [
        (ordinary(), "setup", "thresholds/s.yaml:5: pareto: no record of thresholds/s.yaml::tiny"),
        (InfrastructureError("out of memory"), "infrastructure", "out of memory"),
    ],
)
def test_pareto_without_a_verdict_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    result: Measurement | SaeGuardError,
    cause: str,
    message: str,
) -> None:
    can(monkeypatch, lambda _: result)
    tested = run(session_of(plan_of(PARETO).cases, tmp_path), "pareto")
    pareto = tested.report.pareto
    assert pareto is not None
    assert (pareto.status, pareto.cause, pareto.comparison) == ("error", cause, None)
    assert pareto.message.startswith(message)
    assert tested.error is not None
    assert (tested.error.cause, str(tested.error)) == (cause, pareto.message)


# ---- controls -----------------------------------------------------------------------------------


def with_random_error(kl: float) -> Measurement:
    """Return a measurement with this KL, and with 0.2 as the KL of random errors."""
    measurement = ordinary(kl)
    return replace(measurement, sums={**measurement.sums, "kl_random_error": np.full(8, 20.0)})


def measure_controls(**results: Measurement | SaeGuardError) -> Callable[[Case], object]:
    """Return a function that measures KL 0.05 of checkpoints, and 0.3 of controls.

    ``results`` replaces the result of a control, or of ``itself``, the checkpoint.
    """
    kinds = {name.replace("_", " "): result for name, result in results.items()}
    return lambda case: (
        kinds.get(case.control or "itself")
        or (ordinary(0.3) if case.control else with_random_error(0.05))
    )


def run_controls(
    monkeypatch: pytest.MonkeyPatch, **results: Measurement | SaeGuardError
) -> TestRun:
    """Run the test of controls on results as in `measure_controls`."""
    can(monkeypatch, measure_controls(**results))  # type: ignore[arg-type]
    return run(session_of(plan_of(spec("tiny"), spec("b"), controls=True).cases), "controls")


def test_controls_are_reported_beside_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_controls(monkeypatch)
    controls = result.report.controls
    assert controls is not None
    assert (controls.status, controls.message, result.error) == ("pass", "", None)
    assert list(controls.rows) == [
        CHECKPOINT,
        RANDOM_ERROR,
        PERMUTED,
        RANDOM,
        *list(CONTROLS)[::-1],
    ]
    assert controls.rows[CHECKPOINT]["kl"] == ordinary(0.05)["kl"]
    assert controls.rows[RANDOM_ERROR]["kl"] == pytest.approx(0.2)
    assert controls.rows["zero"]["kl"] == ordinary(0.3)["kl"]


def test_a_checkpoint_worse_than_a_null_model_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = run_controls(monkeypatch, permuted_decoder=ordinary(0.01), zero=ordinary(0.001))
    controls = result.report.controls
    assert controls is not None
    assert (controls.status, result.error) == ("warn", None)
    assert controls.message == ("KL 0.05003 is not below that of the permuted decoder, 0.01003")
    assert not result.report.crossed


@pytest.mark.parametrize("name", ["itself", "permuted_decoder", "zero"])
def test_a_control_that_cannot_be_measured_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    error = SetupError("no such model", options=("model",))
    result = run_controls(monkeypatch, **{name: error})
    controls = result.report.controls
    assert controls is not None
    assert (controls.status, controls.cause, controls.rows) == ("error", "setup", {})
    assert controls.message == "no such model"
    assert (result.error, result.concerns_case) == (error, True)


def test_a_control_with_an_undefined_kl_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(ordinary(), sums={**ordinary().sums, "kl": np.full(8, math.nan)})
    result = run_controls(monkeypatch, random_directions=broken)
    controls = result.report.controls
    assert controls is not None
    assert (controls.status, controls.cause) == ("error", "load")
    assert controls.message.startswith("v1, random directions: ")
    assert result.error is not None
    assert (result.error.cause, result.concerns_case) == ("load", False)


# ---- the whole case -----------------------------------------------------------------------------


def test_the_report_of_a_case_has_all_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    can(monkeypatch, measure_controls())  # type: ignore[arg-type]
    session = session_of(plan_of(spec("tiny"), controls=True).cases)
    for case in session.cases:
        report = case_tests.report(case, session)
        assert report.case == case.ref
        assert list(report.statuses) == [test.name for test in case_tests.list_tests(case)]
        assert len(report.metrics) == len(METRICS)
