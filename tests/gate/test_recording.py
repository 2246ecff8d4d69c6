"""The record of a case, and the report beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import (
    CaseReport,
    ContractResult,
    ControlsResult,
    RecordResult,
    RunReport,
)
from sae_guard.core.report_json import report_from_json
from sae_guard.core.verdicts import Verdict, judge
from sae_guard.core.worst_tokens import worst
from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.gate import case_tests, recording
from sae_guard.gate.cases import Case
from sae_guard.gate.early import Judged
from sae_guard.gate.options import EarlyOptions, GateOptions
from sae_guard.gate.recording import Recorder, RunInfo, build
from sae_guard.gate.session import GateSession
from sae_guard.history import (
    ChangedError,
    History,
    NotRecordedError,
    Recorded,
    read_measurement,
    read_report,
    read_token_kl,
)
from sae_guard.history.record import Record, parse
from sae_guard.history.store import REPORT
from sae_guard.release.manifest import Manifest
from tests.helpers.canned_session import can
from tests.helpers.recorded import (
    RUN_INFO,
    a_case,
    bits,
    built,
    ordinary,
    record_one,
    report_of,
    with_tokens,
)

OLD = Path(__file__).parents[1] / "history" / "data" / "record_schema_1.json"


def full_report(case: Case) -> CaseReport:
    """Return a report of the case with every optional part."""
    measurement = with_tokens(ordinary())
    return replace(
        report_of(case, measurement),
        contracts=(ContractResult("keys", "pass"),),
        controls=ControlsResult("warn", {"zero": {"kl": math.inf, "l0": None}}, message="worse"),
        diagnosis=Diagnosis(tried=("k = 32",)),
        worst=worst(measurement),
    )


def record_full_report(folder: Path) -> tuple[History, Recorded, CaseReport]:
    """Record a case with its `full_report`; return the report too."""
    history, case = History(str(folder / "h")), a_case(folder)
    report = full_report(case)
    record, files = build(case, with_tokens(ordinary()), report, RUN_INFO)
    return history, history.add(record, files), report


# ---- report.json --------------------------------------------------------------------------------


def test_the_report_of_a_recorded_case_is_read_back(tmp_path: Path) -> None:
    _, recorded, report = record_full_report(tmp_path)
    run_report = read_report(recorded)
    assert run_report is not None
    assert run_report.cases == (report,)
    assert repr(run_report.cases[0]) == repr(report)
    assert (run_report.verdict, run_report.exit_code) == ("pass", 0)
    data = (Path(recorded.path) / REPORT).read_bytes()
    assert run_report == report_from_json(data, file=REPORT)
    assert recorded.record.files[REPORT].bytes == len(data)
    assert bits(read_measurement(recorded)) == bits(replace(with_tokens(ordinary()), tokens=None))


def test_a_report_with_nan_and_unicode_is_read_back(tmp_path: Path) -> None:
    measurement = ordinary()
    measurement.sums["l1"][:] = math.nan
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, measurement, member="größer\u2028")
    run_report = read_report(recorded)
    assert run_report is not None
    assert run_report.cases[0].case.member == "größer\u2028"
    values = {str(value.target): value for value in run_report.cases[0].metrics}
    assert values["l1"].estimate is None
    assert values["l1"].undefined == recorded.record.metrics["l1"].undefined


@pytest.mark.parametrize(("kl", "verdict", "exit_code"), [(0.05, "pass", 0), (0.3, "fail", 1)])
def test_the_report_and_the_record_have_the_same_verdict_and_metrics(
    tmp_path: Path, kl: float, verdict: str, exit_code: int
) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary(kl))
    run_report = read_report(recorded)
    assert run_report is not None
    assert (run_report.verdict, run_report.exit_code, recorded.record.verdict) == (
        verdict, exit_code, verdict,
    )  # fmt: skip
    values = {str(value.target): value.estimate for value in run_report.cases[0].metrics}
    assert values.keys() == METRICS.keys() == recorded.record.metrics.keys()
    for name, row in recorded.record.metrics.items():
        estimate = values[name]
        assert row.value == (estimate.value if estimate else None)


def test_a_changed_report_is_an_error(tmp_path: Path) -> None:
    _, recorded, _ = record_full_report(tmp_path)
    file = Path(recorded.path) / REPORT
    file.write_bytes(file.read_bytes().replace(b"0.05", b"0.04"))
    with pytest.raises(ChangedError, match=r"report\.json was changed"):
        read_report(recorded)
    assert read_measurement(recorded).n_sequences == 8


def test_reading_a_history_opens_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history, recorded, _ = record_full_report(tmp_path)
    opened = files_opened(monkeypatch)
    assert history.records() == ([recorded], ())
    assert history.record(recorded.id) == recorded
    read_measurement(recorded)
    read_token_kl(recorded)
    assert opened
    assert REPORT not in {Path(name).name for name in opened}
    opened.clear()
    assert read_report(recorded) is not None
    assert {Path(name).name for name in opened} == {REPORT}


def test_a_history_without_its_reports_is_readable(tmp_path: Path) -> None:
    history, recorded, _ = record_full_report(tmp_path)
    (Path(recorded.path) / REPORT).unlink()
    assert history.records() == ([recorded], ())
    assert read_measurement(recorded).n_sequences == 8


def files_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each file that is read from now on is added."""
    opened: list[str] = []
    read_bytes, open_file = Path.read_bytes, Path.open

    def reading(self: Path) -> bytes:
        opened.append(str(self))
        return read_bytes(self)

    def opening(self: Path, *arguments: Any, **more: Any) -> Any:
        opened.append(str(self))
        return open_file(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_bytes", reading)
    monkeypatch.setattr(Path, "open", opening)
    for name in ("cat_file", "_open"):
        monkeypatch.setattr(
            LocalFileSystem, name, logging_path(getattr(LocalFileSystem, name), opened)
        )
    return opened


def logging_path(function: Callable[..., Any], opened: list[str]) -> Callable[..., Any]:
    """Wrap a method of a file system, so that it adds its path to the list."""

    def logged(self: LocalFileSystem, path: str, *arguments: Any, **more: Any) -> Any:
        opened.append(path)
        return function(self, path, *arguments, **more)

    return logged


# ---- records made before there were reports -----------------------------------------------------


def without_report(folder: Path) -> tuple[History, Recorded]:
    """Add a record as it was before there were reports."""
    record, files = built(a_case(folder), with_tokens(ordinary()))
    files.pop(REPORT)
    rows = {name: row for name, row in record.files.items() if name != REPORT}
    history = History(str(folder / "h"))
    return history, history.add(record.model_copy(update={"files": rows}), files)


def test_a_record_without_a_report_is_readable(tmp_path: Path) -> None:
    history, recorded = without_report(tmp_path)
    assert not (Path(recorded.path) / REPORT).exists()
    assert history.records() == ([recorded], ())
    assert read_report(recorded) is None
    assert read_measurement(recorded).n_sequences == 8
    assert read_token_kl(recorded) is not None


def test_a_record_of_the_first_schema_has_no_report(tmp_path: Path) -> None:
    data = OLD.read_bytes()
    assert REPORT not in json.loads(data)["files"]
    record = parse(Record, data, OLD.name)
    assert read_report(Recorded("old", "old", record)) is None


# ---- what is built ------------------------------------------------------------------------------


def test_all_records_of_a_run_have_its_name_identifier_and_user(tmp_path: Path) -> None:
    info = RunInfo.collect("v1.2", tmp_path)
    assert info.name == "v1.2"
    assert RunInfo.collect("v1.2", tmp_path).run != info.run
    with pytest.raises(SetupError, match="'a b'"):
        RunInfo.collect("a b", tmp_path)
    records = [built(a_case(tmp_path, member), ordinary(), run_info=info)[0] for member in "ab"]
    assert {(record.name, record.run, record.by) for record in records} == {
        ("v1.2", info.run, info.by)
    }


@pytest.mark.parametrize("change", [{"checkpoint": None}, {"control": "zero"}])
def test_recording_a_control_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    case = a_case(tmp_path)
    with pytest.raises(NotRecordedError, match="control"):
        build(replace(case, **change), ordinary(), report_of(case, ordinary()), RUN_INFO)


def test_a_record_needs_all_sequences_and_all_verdicts(tmp_path: Path) -> None:
    case, part = a_case(tmp_path), ordinary(n=4)
    with pytest.raises(NotRecordedError, match="4 of the 8 sequences") as caught:
        built(case, part, [judge(ordinary(), threshold) for threshold in case.thresholds])
    assert caught.value.options == ("fast", "audit")
    with pytest.raises(NotRecordedError, match="no verdict on kl: broken"):
        built(case, ordinary(), [Verdict(case.thresholds[0], "error", message="broken")])
    with pytest.raises(NotRecordedError, match="nothing was judged"):
        built(case, ordinary(), [])


# ---- the recorder -------------------------------------------------------------------------------


def recorder_of(folder: Path, case: Case, **options: Any) -> tuple[GateSession, Recorder]:
    """Return a session and a recorder of the case, with the default history."""
    gate = GateOptions(folder, folder, device="cpu", cache="off", record="v1", **options)
    session = GateSession(gate, lambda: [case])
    return session, Recorder(session)


def test_a_record_has_the_version_of_the_manifest(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "sae_release.yaml", "v2.0", {"k16": "k16"})
    case = replace(a_case(tmp_path), manifest=manifest)
    with pytest.raises(SetupError, match=r"is of version v2.0, .* would be of v1") as caught:
        recorder_of(tmp_path, case)
    assert caught.value.options == ("record",)


def the_report(folder: Path) -> RunReport:
    """Read the report of the only record."""
    history = History(str(folder / ".sae_guard" / "history"))
    (recorded,), _ = history.records()
    report = read_report(recorded)
    assert report is not None
    return report


def test_a_case_is_recorded_with_its_whole_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    can(monkeypatch, lambda _: with_tokens(ordinary()), diagnosis=Diagnosis(tried=("k = 32",)))
    case = a_case(tmp_path)
    session, recorder = recorder_of(tmp_path, case)
    report = case_tests.report(case, session)
    (result,) = recorder.record_all(
        {case.ref: recording.CaseResult(report, session.judged_before(case))}
    )
    assert result.path.startswith(".sae_guard/history/records/")
    assert the_report(tmp_path).cases == (report,)


def test_thresholds_whose_tests_did_not_run_are_judged_for_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    can(monkeypatch, lambda _: ordinary())
    case = a_case(tmp_path)
    session, recorder = recorder_of(tmp_path, case)
    (kl,) = (test for test in case_tests.list_tests(case) if test.name == "kl")
    part = case_tests.run(kl, session).report
    recorder.record_all({case.ref: recording.CaseResult(part, session.judged_before(case))})
    (report,) = the_report(tmp_path).cases
    assert report.statuses == {"kl": "pass", "l0": "pass"}
    assert len(report.metrics) == len(METRICS)


@pytest.mark.parametrize(
    ("tested", "refused"),
    [
        ((None, ""), "it was not measured: no threshold was tested"),
        ((InfrastructureError("out of memory"), ""), "out of memory"),
        ((Judged(ordinary(), {}), "kl was lost"), "kl was lost"),
        ((Judged(ordinary(n=4), {}), ""), "4 of the 8 sequences were measured"),
    ],
)
def test_a_case_that_is_not_recorded_has_the_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tested: tuple[Judged | InfrastructureError | None, str],
    refused: str,
) -> None:
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    case = a_case(tmp_path)
    _, recorder = recorder_of(tmp_path, case)
    (result,) = recorder.record_all({case.ref: recording.CaseResult(CaseReport(case.ref), *tested)})
    assert (result.case, result.path) == (case.ref, "")
    assert result.refused.startswith(refused)
    history = History(str(tmp_path / ".sae_guard" / "history"))
    assert history.records() == ([], ())


def test_untested_cases_and_controls_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    case = a_case(tmp_path)
    _, recorder = recorder_of(tmp_path, case)
    nothing = (RecordResult(None, refused="no checkpoint was gated"),)
    assert recorder.record_all({}) == nothing
    control = replace(case, checkpoint=None, control="zero", member="control:zero")
    _, recorder = recorder_of(tmp_path, control)
    assert (
        recorder.record_all({control.ref: recording.CaseResult(CaseReport(control.ref), None)})
        == nothing
    )


def test_recording_a_run_that_may_end_early_is_an_error(tmp_path: Path) -> None:
    case = a_case(tmp_path)
    for early in (EarlyOptions(fast=True), EarlyOptions(max_sequences=9), EarlyOptions(alpha=0.01)):
        with pytest.raises(SetupError, match="v1: a record needs all sequences") as caught:
            recorder_of(tmp_path, case, early=early)
        assert caught.value.options == ("record", "audit")
    for early in (EarlyOptions(), EarlyOptions(fast=True, audit=True)):
        recorder_of(tmp_path, case, early=early)
