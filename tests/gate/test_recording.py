"""What is kept of a case: its record, with the whole report beside it."""

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
from sae_guard.history import ChangedError, History, NotRecordedError, Recorded
from sae_guard.history.record import Record, parse
from sae_guard.history.store import REPORT
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
    """Report all that there may be of a case."""
    measurement = with_tokens(ordinary())
    return replace(
        report_of(case, measurement),
        contracts=(ContractResult("keys", "pass"),),
        controls=ControlsResult("warn", {"zero": {"kl": math.inf, "l0": None}}, message="worse"),
        diagnosis=Diagnosis(tried=("k = 32",)),
        worst=worst(measurement),
    )


def kept(folder: Path) -> tuple[History, Recorded, CaseReport]:
    """Keep a record of a case with all there may be; with what was reported of it."""
    history, case = History(str(folder / "h")), a_case(folder)
    report = full_report(case)
    made = build(case, with_tokens(ordinary()), report, RUN_INFO)
    return history, history.add(*made), report


# ---- report.json --------------------------------------------------------------------------------


def test_the_report_of_the_case_is_kept_and_read_back(tmp_path: Path) -> None:
    history, recorded, report = kept(tmp_path)
    found = history.report(recorded)
    assert found is not None
    assert found.cases == (report,)
    assert repr(found.cases[0]) == repr(report)
    assert (found.verdict, found.exit_code) == ("pass", 0)
    data = (Path(recorded.path) / REPORT).read_bytes()
    assert found == report_from_json(data, file=REPORT)
    assert recorded.record.files[REPORT].bytes == len(data)
    assert bits(history.measurement(recorded)) == bits(
        replace(with_tokens(ordinary()), tokens=None)
    )


def test_a_report_of_what_is_not_finite_or_no_ascii_is_read_back(tmp_path: Path) -> None:
    measurement = ordinary()
    measurement.sums["l1"][:] = math.nan
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, measurement, member="größer\u2028")
    found = history.report(recorded)
    assert found is not None
    assert found.cases[0].case.member == "größer\u2028"
    values = {str(each.target): each for each in found.cases[0].metrics}
    assert values["l1"].estimate is None
    assert values["l1"].undefined == recorded.record.metrics["l1"].undefined


@pytest.mark.parametrize(("kl", "verdict", "exit_code"), [(0.05, "pass", 0), (0.3, "fail", 1)])
def test_the_verdict_is_that_of_the_record(
    tmp_path: Path, kl: float, verdict: str, exit_code: int
) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary(kl))
    found = history.report(recorded)
    assert found is not None
    assert (found.verdict, found.exit_code, recorded.record.verdict) == (
        verdict, exit_code, verdict,
    )  # fmt: skip
    values = {str(each.target): each.estimate for each in found.cases[0].metrics}
    assert values.keys() == METRICS.keys() == recorded.record.metrics.keys()
    for name, row in recorded.record.metrics.items():
        estimate = values[name]
        assert row.value == (estimate.value if estimate else None)


def test_a_changed_report_is_found_out(tmp_path: Path) -> None:
    history, recorded, _ = kept(tmp_path)
    file = Path(recorded.path) / REPORT
    file.write_bytes(file.read_bytes().replace(b"0.05", b"0.04"))
    with pytest.raises(ChangedError, match=r"report\.json was changed: its sha256 is another"):
        history.report(recorded)
    assert history.measurement(recorded).n_sequences == 8


def test_a_history_is_read_without_its_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, recorded, _ = kept(tmp_path)
    opened = files_opened(monkeypatch)
    assert history.records() == ([recorded], ())
    assert history.record(recorded.id) == recorded
    history.measurement(recorded)
    history.token_kl(recorded)
    assert opened
    assert REPORT not in {Path(name).name for name in opened}
    opened.clear()
    assert history.report(recorded) is not None
    assert {Path(name).name for name in opened} == {REPORT}


def test_a_history_is_read_though_its_reports_are_gone(tmp_path: Path) -> None:
    history, recorded, _ = kept(tmp_path)
    (Path(recorded.path) / REPORT).unlink()
    assert history.records() == ([recorded], ())
    assert history.measurement(recorded).n_sequences == 8


def files_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every file that is read from here on, whichever way."""
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
        monkeypatch.setattr(LocalFileSystem, name, noting(getattr(LocalFileSystem, name), opened))
    return opened


def noting(function: Callable[..., Any], opened: list[str]) -> Callable[..., Any]:
    """Note the path that a method of a file system is called with."""

    def noted(self: LocalFileSystem, path: str, *arguments: Any, **more: Any) -> Any:
        opened.append(path)
        return function(self, path, *arguments, **more)

    return noted


# ---- records made before there were reports -----------------------------------------------------


def without_report(folder: Path) -> tuple[History, Recorded]:
    """Keep a record as it was made before."""
    record, files = built(a_case(folder), with_tokens(ordinary()))
    files.pop(REPORT)
    rows = {name: row for name, row in record.files.items() if name != REPORT}
    history = History(str(folder / "h"))
    return history, history.add(record.model_copy(update={"files": rows}), files)


def test_a_record_without_a_report_is_read(tmp_path: Path) -> None:
    history, recorded = without_report(tmp_path)
    assert not (Path(recorded.path) / REPORT).exists()
    assert history.records() == ([recorded], ())
    assert history.report(recorded) is None
    assert history.measurement(recorded).n_sequences == 8
    assert history.token_kl(recorded) is not None


def test_a_record_of_the_first_schema_has_no_report(tmp_path: Path) -> None:
    data = OLD.read_bytes()
    assert REPORT not in json.loads(data)["files"]
    record = parse(Record, data, OLD.name)
    assert History(str(tmp_path)).report(Recorded("old", "old", record)) is None


# ---- what is built ------------------------------------------------------------------------------


def test_of_what_runs_have_in_common_all_records_say_the_same(tmp_path: Path) -> None:
    info = RunInfo.collect("v1.2", tmp_path)
    assert info.name == "v1.2"
    assert RunInfo.collect("v1.2", tmp_path).run != info.run
    with pytest.raises(SetupError, match="'a b' is no name of a version"):
        RunInfo.collect("a b", tmp_path)
    records = [built(a_case(tmp_path, member), ordinary(), run_info=info)[0] for member in "ab"]
    assert {(each.name, each.run, each.by) for each in records} == {("v1.2", info.run, info.by)}


@pytest.mark.parametrize("change", [{"checkpoint": None}, {"control": "zero"}])
def test_a_control_is_not_recorded(tmp_path: Path, change: dict[str, Any]) -> None:
    case = a_case(tmp_path)
    with pytest.raises(NotRecordedError, match="it is a control, not a checkpoint"):
        build(replace(case, **change), ordinary(), report_of(case, ordinary()), RUN_INFO)


def test_estimates_and_errors_are_not_recorded(tmp_path: Path) -> None:
    case, part = a_case(tmp_path), ordinary(n=4)
    with pytest.raises(NotRecordedError, match="4 of the 8 sequences were measured") as caught:
        built(case, part, [judge(ordinary(), each) for each in case.thresholds])
    assert caught.value.options == ("fast", "audit")
    with pytest.raises(NotRecordedError, match="no verdict on kl: broken"):
        built(case, ordinary(), [Verdict(case.thresholds[0], "error", message="broken")])
    with pytest.raises(NotRecordedError, match="nothing was judged"):
        built(case, ordinary(), [])


# ---- the recorder -------------------------------------------------------------------------------


def recorder_of(folder: Path, case: Case, **options: Any) -> tuple[GateSession, Recorder]:
    """Make what records the case, in the usual folder."""
    asked = GateOptions(folder, folder, device="cpu", cache="off", record="v1", **options)
    session = GateSession(asked, lambda: [case])
    return session, Recorder(session)


def the_report(folder: Path) -> RunReport:
    """Read the report of the one record there is."""
    history = History(str(folder / ".sae_guard" / "history"))
    (recorded,), _ = history.records()
    found = history.report(recorded)
    assert found is not None
    return found


def test_a_case_is_recorded_with_all_that_was_reported(
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


def test_thresholds_that_were_left_out_are_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAE_GUARD_HISTORY", raising=False)
    can(monkeypatch, lambda _: ordinary())
    case = a_case(tmp_path)
    session, recorder = recorder_of(tmp_path, case)
    (kl,) = (test for test in case_tests.list_tests(case) if test.name == "kl")
    part = case_tests.run(kl, session).report
    recorder.record_all({case.ref: recording.CaseResult(part, session.judged_before(case))})
    (found,) = the_report(tmp_path).cases
    assert found.statuses == {"kl": "pass", "l0": "pass"}
    assert len(found.metrics) == len(METRICS)


@pytest.mark.parametrize(
    ("tested", "refused"),
    [
        ((None, ""), "it was not measured: no threshold was tested"),
        ((InfrastructureError("out of memory"), ""), "out of memory"),
        ((Judged(ordinary(), {}), "kl was lost"), "kl was lost"),
        ((Judged(ordinary(n=4), {}), ""), "4 of the 8 sequences were measured"),
    ],
)
def test_what_is_not_recorded_says_why(
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


def test_cases_that_were_not_tested_and_controls_are_passed_over(
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


def test_a_run_that_would_end_early_is_refused_before_it_starts(tmp_path: Path) -> None:
    case = a_case(tmp_path)
    for early in (EarlyOptions(fast=True), EarlyOptions(max_sequences=9), EarlyOptions(alpha=0.01)):
        with pytest.raises(SetupError, match="a record is of all sequences") as caught:
            recorder_of(tmp_path, case, early=early)
        assert caught.value.options == ("record", "audit")
    for early in (EarlyOptions(), EarlyOptions(fast=True, audit=True)):
        recorder_of(tmp_path, case, early=early)
