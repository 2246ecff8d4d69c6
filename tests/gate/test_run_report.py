"""A run without pytest: verdicts, exit code, records, notes and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseRef, NotGated, RecordResult, RunReport
from sae_guard.core.report_json import report_from_json, report_to_json
from sae_guard.demo import SAES
from sae_guard.errors import InfrastructureError, SaeGuardError, SetupError
from sae_guard.gate.cases import Case
from sae_guard.gate.options import EarlyOptions, GateOptions
from sae_guard.gate.run_report import run_gate
from sae_guard.history import History, HistoryError
from tests.helpers.canned_session import can, write_checkpoint
from tests.helpers.changed_measurements import with_provenance
from tests.helpers.recorded import SPEC, ordinary, promotion, record_one, with_tokens
from tests.helpers.small_demo import SMALL, make_small

HOOK = "blocks.1.hook_resid_post"
OUT_OF_MEMORY = InfrastructureError("out of memory", options=("batch_size",))


def measure(case: Case) -> Measurement | SaeGuardError:
    """Return the measurement that belongs to the name of the case; an error for ``broken``."""
    if case.member == "broken":
        return OUT_OF_MEMORY
    files = {"sae.safetensors": sha256(case.member.encode()).hexdigest()}
    measurement = ordinary({"good": 0.05, "better": 0.02}.get(case.member, 0.3))
    return with_tokens(with_provenance(measurement, checkpoint={"files": files}))


@pytest.fixture
def measured_cases(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Cases that have been measured, in their order."""
    return can(monkeypatch, measure)


@pytest.fixture
def options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured_cases: list[Case]
) -> GateOptions:
    """Options in a project with one spec and four checkpoints."""
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    for name in ("good", "better", "bad", "broken"):
        write_checkpoint(tmp_path / name, HOOK)
    write_spec(tmp_path, SPEC)
    return GateOptions(tmp_path, tmp_path, device="cpu", cache="off")


def write_spec(root: Path, text: str, name: str = "tiny.yaml") -> None:
    """Write a spec of the project."""
    (root / "thresholds").mkdir(exist_ok=True)
    (root / "thresholds" / name).write_text(text, encoding="utf-8")


def gate(options: GateOptions, *checkpoints: str, **more: object) -> RunReport:
    """Gate these checkpoints, and check that the report can be written and read."""
    run = run_gate(replace(options, checkpoints=checkpoints, **more))  # type: ignore[arg-type]
    assert report_from_json(report_to_json(run), file="report.json") == run
    return run


def ref(member: str, document: str = "tiny") -> CaseRef:
    """Return the name of a case of the spec."""
    return CaseRef("thresholds/tiny.yaml", document, member)


@pytest.mark.parametrize(
    ("checkpoints", "verdict", "exit_code"),
    [
        (("good",), "pass", 0),
        (("good", "better"), "pass", 0),
        (("bad",), "fail", 1),
        (("good", "bad"), "fail", 1),
        (("broken",), "error", 2),
        (("bad", "broken", "good"), "error", 2),
    ],
)
def test_the_worst_case_decides_the_verdict_of_the_run(
    options: GateOptions, checkpoints: tuple[str, ...], verdict: str, exit_code: int
) -> None:
    run = gate(options, *checkpoints)
    assert (run.verdict, run.exit_code) == (verdict, exit_code)
    assert [case.case for case in run.cases] == [ref(name) for name in checkpoints]
    expected = {"good": "pass", "better": "pass", "bad": "fail", "broken": "error"}
    for name, case in zip(checkpoints, run.cases, strict=True):
        assert case.statuses["kl"] == expected[name]
        assert case.statuses["load.readable"] == "pass"
        assert len(case.metrics) == (0 if name == "broken" else len(METRICS))
    assert (run.not_judged, run.not_gated, run.records) == ((), (), ())
    assert (run.notes, run.warnings) == ((), ())


def test_errors_of_measuring_are_in_the_report(options: GateOptions) -> None:
    (case,) = gate(options, "broken").cases
    assert case.errors == {"kl": "out of memory", "l0": "out of memory"}
    assert {verdict.cause for verdict in case.verdicts} == {"infrastructure"}


def test_errors_of_the_options_are_raised_before_measuring(
    options: GateOptions, measured_cases: list[Case]
) -> None:
    for wrong in (
        {"checkpoints": ("nowhere",)},
        {"specs": ("other",), "checkpoints": ("good",)},
        {"hook": "blocks.2.hook_resid_post", "checkpoints": ("good",)},
        {"baseline": "v9", "checkpoints": ("good",)},
        {"record": "a b", "checkpoints": ("good",)},
        {"record": "v1", "checkpoints": ("good",), "early": EarlyOptions(fast=True)},
    ):
        with pytest.raises(SetupError):
            run_gate(replace(options, **wrong))
    assert measured_cases == []


def test_a_run_without_anything_to_gate_is_no_pass(options: GateOptions) -> None:
    run = gate(options)
    assert (run.verdict, run.exit_code, run.cases) == ("error", 2, ())
    reason = "it names no default checkpoint, and none was given"
    assert run.not_gated == (NotGated("thresholds/tiny.yaml::tiny", None, reason),)


def test_a_spec_that_gates_nothing_is_reported_with_the_reason(options: GateOptions) -> None:
    other = SPEC.replace("name: tiny", "name: other").replace("blocks.1", "blocks.2")
    write_spec(options.root, f"{SPEC}---\n{other}")
    run = gate(options, "good")
    assert (run.verdict, [case.case for case in run.cases]) == ("pass", [ref("good")])
    reason = f"its hook point is {HOOK}, the spec's is blocks.2.hook_resid_post"
    assert run.not_gated == (NotGated("thresholds/tiny.yaml::other", "good", reason),)


def test_controls_are_cases_of_their_own(
    options: GateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_controls(case: Case) -> Measurement:
        measurement = ordinary(0.3 if case.control else 0.05)
        sums = measurement.sums
        columns = {"kl_random_error": sums["kl"]}
        columns |= {"kl": sums["kl"] * 0} if case.control == "identity" else {}
        return replace(measurement, sums={**sums, **columns})

    can(monkeypatch, measure_controls)
    run = gate(options, "good", controls=True)
    assert [case.case.member for case in run.cases] == [
        "good", "control:identity", "control:zero", "control:mean",
    ]  # fmt: skip
    assert run.cases[0].controls is not None
    assert run.cases[0].controls.status == "pass"
    # These numbers are not those of a zero ablation.
    assert run.cases[2].crossed == ["reconstruction_score"]
    assert run.exit_code != 0


# ---- records ------------------------------------------------------------------------------------


def recorded_in(options: GateOptions) -> list[str]:
    """Return the names of the checkpoints in the history."""
    records, unreadable = History(str(options.root / ".sae_guard" / "history")).records()
    assert unreadable == ()
    return [recorded.record.checkpoint.label for recorded in records]


def test_each_record_is_reported_with_its_path(options: GateOptions) -> None:
    run = gate(options, "good", "bad", record="v1")
    assert (run.verdict, run.exit_code) == ("fail", 1)
    assert [record.case for record in run.records] == [ref("good"), ref("bad")]
    for record in run.records:
        assert record.path.startswith(".sae_guard/history/records/")
        assert (options.root / record.path / "record.json").is_file()
        assert record.refused == ""
    assert sorted(recorded_in(options)) == ["bad", "good"]


def test_a_case_with_an_error_is_not_recorded_but_others_are(options: GateOptions) -> None:
    run = gate(options, "broken", "good", record="v1")
    assert run.exit_code == 2
    assert run.records[0] == RecordResult(ref("broken"), refused="out of memory")
    assert run.records[1].path
    assert recorded_in(options) == ["good"]


def test_a_pass_that_cannot_be_recorded_is_an_error(
    options: GateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise HistoryError("no space left")

    monkeypatch.setattr(History, "add", full)
    run = gate(options, "good", record="v1")
    assert (run.verdict, run.exit_code) == ("pass", 2)
    assert run.records == (RecordResult(ref("good"), refused="no space left"),)
    assert gate(options, "bad", record="v1").exit_code == 1


def test_a_run_without_checkpoints_reports_that_nothing_is_recorded(options: GateOptions) -> None:
    run = gate(options, record="v1")
    assert run.records == (RecordResult(None, refused="no checkpoint was gated"),)


# ---- baselines ----------------------------------------------------------------------------------

CHANGE = SPEC.replace("kl: {max: 0.1}", "kl: {max: 0.1, max_increase: 2%}")


def test_changes_are_judged_against_the_baseline(options: GateOptions) -> None:
    assert gate(options, "good", record="v1").exit_code == 0
    write_spec(options.root, CHANGE)
    for member, status, exit_code in (("better", "pass", 0), ("bad", "fail", 1)):
        run = gate(options, member, baseline="v1")
        assert [case.statuses["kl.change"] for case in run.cases] == [status]
        assert (run.exit_code, run.notes) == (exit_code, ())
    assert gate(options, "good").verdict == "error"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (CHANGE, ("baseline none: left out 1 threshold that earlier versions set",)),
        (
            CHANGE.replace("thresholds:\n", "thresholds:\n  pareto: {x: l0, y: kl}\n"),
            ("baseline none: left out 2 thresholds that earlier versions set",),
        ),
        (SPEC, ()),
    ],
)
def test_thresholds_left_out_without_a_baseline_are_noted(
    options: GateOptions, text: str, note: tuple[str, ...]
) -> None:
    write_spec(options.root, text)
    run = gate(options, "good", "bad", baseline="none")
    assert run.notes == note
    assert "kl.change" not in run.cases[0].statuses
    assert run.exit_code == 1


def test_a_baseline_that_no_threshold_uses_is_noted(options: GateOptions) -> None:
    gate(options, "good", record="v1")
    run = gate(options, "good", baseline="v1")
    assert run.notes == ("baseline v1: no spec of this run has thresholds on changes",)


# ---- thresholds of the last promoted version ----------------------------------------------------


def promoted(options: GateOptions) -> Iterator[Path]:
    """Promote a version with a tighter bound on KL; yield the files of the history."""
    history = History(str(options.root / ".sae_guard" / "history"))
    tight = SPEC.replace("max: 0.1", "max: 0.08")
    recorded = record_one(history, options.root / "before", ordinary(), text=tight)
    history.promote(promotion(recorded, "v1.2"))
    yield from (options.root / ".sae_guard" / "history").rglob("*.json")


def test_loosened_thresholds_are_in_the_report_of_each_case(options: GateOptions) -> None:
    list(promoted(options))
    run = gate(options, "good", "bad")
    assert run.exit_code == 1
    for case in run.cases:
        assert case.loosened is not None
        assert (case.loosened.label, case.loosened.by) == ("v1.2", "someone")
        (change,) = case.loosened.changes
        assert (change.threshold, change.key, change.old, change.new) == ("kl", "max", 0.08, 0.1)
    assert run.warnings == ()


def test_a_promotion_that_cannot_be_read_is_a_warning(options: GateOptions) -> None:
    for file in promoted(options):
        file.write_bytes(file.read_bytes() + b" ")
    run = gate(options, "good")
    assert (run.verdict, run.exit_code) == ("pass", 0)
    assert run.cases[0].loosened is None
    (warning,) = run.warnings
    assert warning.startswith("thresholds of the last promoted version cannot be read: ")


# ---- with a model -------------------------------------------------------------------------------


def test_the_demo_is_gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    root = make_small(tmp_path / "project", SMALL.replace("max: 0.25", "max: 0.05"))
    checkpoints = (str(SAES / "v2"), str(SAES / "v3"))
    run = run_gate(
        GateOptions(root, root, checkpoints=checkpoints, device="cpu", cache="off", record="v1")
    )
    assert (run.verdict, run.exit_code) == ("fail", 1)
    good, bad = run.cases
    assert good.crossed == []
    assert bad.crossed == ["kl"]
    assert {status for test, status in bad.statuses.items() if test.startswith("load.")} == {"pass"}
    assert bad.worst is not None
    assert bad.provenance is not None
    assert bad.provenance.hook == "blocks.2.hook_resid_post"
    assert report_from_json(report_to_json(run), file="report.json") == run
    assert all((root / record.path).is_dir() for record in run.records)
