"""Records and promotions in a folder: added to, never changed, found again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings

from sae_guard.core.measurement import Measurement
from sae_guard.core.verdicts import Verdict
from sae_guard.core.worst_tokens import worst
from sae_guard.errors import SetupError
from sae_guard.gate.recording import build
from sae_guard.history import (
    ChangedError,
    History,
    HistoryError,
    NotRecordedError,
    Promotion,
    Recorded,
    check_name,
    promoted_labels,
    read_measurement,
    read_report,
    read_token_kl,
)
from sae_guard.history.record import SCHEMA_VERSION, FileRow, to_json
from sae_guard.testing import measurements
from tests.helpers.recorded import (
    RUN_INFO,
    SPEC,
    a_case,
    bits,
    built,
    ordinary,
    record_one,
    report_of,
    token_bits,
    tokenwise,
)
from tests.helpers.reports import contracts, controls


@pytest.fixture(params=["folder", "file://", "memory://"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    """A new history, here and elsewhere."""
    return {
        "folder": History(str(tmp_path / "new" / "history")),
        "file://": History((tmp_path / "new" / "history").as_uri()),
        "memory://": History(f"memory://{uuid4().hex}/history"),
    }[request.param]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurement=measurements())
def test_what_was_recorded_is_read_back_equal(
    tmp_path: Path, history: History, measurement: Measurement
) -> None:
    before, _ = history.records()
    recorded = record_one(history, tmp_path, measurement)
    after, unreadable = history.records()
    assert unreadable == ()
    assert [each.id for each in before] == [each.id for each in after if each != recorded]
    assert recorded in after
    found = read_measurement(recorded)
    assert bits(found) == bits(measurement)
    for name, row in recorded.record.metrics.items():
        if not row.undefined:
            estimate = found.estimate(name)
            assert (row.value, row.low, row.high) == (estimate.value, estimate.low, estimate.high)


def test_a_record_says_what_was_measured_on_what_and_how_it_was_judged(
    tmp_path: Path, history: History
) -> None:
    record = record_one(history, tmp_path, ordinary(kl=0.2)).record
    assert record.verdict == "fail"
    kl, l0 = record.thresholds
    assert (kl.metric, kl.max, kl.verdict) == ("kl", 0.1, "fail")
    assert (l0.warn_max, l0.verdict) == (20, "pass")
    assert kl.where.endswith("tiny.yaml:6")
    assert kl.headroom == pytest.approx(-0.1, abs=1e-3)
    assert (record.spec.file, record.spec.name) == ("thresholds/tiny.yaml", "tiny")
    assert record.checkpoint.reference == str(tmp_path / "v1")
    assert (record.n_sequences, record.n_tokens) == (8, 800)
    assert record.provenance["corpus"]["sha256"] == "2" * 64
    assert {name: row.rows for name, row in record.files.items()} == {
        "sequences.parquet": 8,
        "latents.parquet": 5,
        "report.json": 1,
    }


def test_tokens_are_kept_with_the_record_and_what_was_changed_is_found_out(
    tmp_path: Path, history: History
) -> None:
    measurement = tokenwise(ordinary())
    recorded = record_one(history, tmp_path, measurement)
    assert recorded.record.files["tokens.parquet"].rows == 800
    assert token_bits(read_token_kl(recorded)) == token_bits(measurement.token_kl)
    assert read_measurement(recorded).tokens is None
    assert read_token_kl(record_one(history, tmp_path, ordinary())) is None
    other = recorded.record.files["latents.parquet"]
    files = {**recorded.record.files, "tokens.parquet": other}
    changed = replace(recorded, record=recorded.record.model_copy(update={"files": files}))
    for read in (read_token_kl, read_measurement):
        with pytest.raises(HistoryError, match=r"tokens\.parquet was changed: its sha256"):
            read(changed)


def test_the_report_of_the_case_is_stored_and_comes_back_whole(
    tmp_path: Path, history: History
) -> None:
    case, measurement = a_case(tmp_path), tokenwise(ordinary(kl=0.2))
    report = replace(
        report_of(case, measurement),
        worst=worst(measurement),
        contracts=contracts("pass"),
        controls=controls(),
    )
    recorded = history.add(*build(case, measurement, report, RUN_INFO))
    whole = read_report(recorded)
    assert whole is not None
    assert whole.cases == (report,)
    assert (whole.verdict, whole.exit_code) == ("fail", 1)
    assert whole.cases[0].case.spec == recorded.spec
    (again,), _ = history.records()
    assert read_report(again) == whole
    assert bits(read_measurement(again)) == bits(measurement)


def test_records_of_before_have_no_report(tmp_path: Path, history: History) -> None:
    case, measurement = a_case(tmp_path), ordinary()
    record, files = built(case, measurement)
    older = {name: row for name, row in record.files.items() if name != "report.json"}
    recorded = history.add(
        record.model_copy(update={"files": older}), {name: files[name] for name in older}
    )
    assert read_report(recorded) is None
    assert bits(read_measurement(recorded)) == bits(measurement)


def test_a_report_that_was_changed_is_found_out_and_no_other_file_is(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary(kl=0.2))
    file = Path(recorded.path) / "report.json"
    file.write_bytes(file.read_bytes().replace(b'"fail"', b'"pass"'))
    with pytest.raises(ChangedError, match=r"report\.json was changed: its sha256"):
        read_report(recorded)
    assert history.records() == ([recorded], ())  # which reads no report
    assert bits(read_measurement(recorded)) == bits(ordinary(kl=0.2))
    file.unlink()
    with pytest.raises(HistoryError, match=r"report\.json: No such file"):
        read_report(recorded)


def test_a_report_of_a_later_version_is_refused(tmp_path: Path, history: History) -> None:
    case, measurement = a_case(tmp_path), ordinary()
    record, files = built(case, measurement)
    later = files["report.json"].replace(b'"schema_version": 2', b'"schema_version": 3')
    assert later != files["report.json"]
    rows = {**record.files, "report.json": FileRow(
        sha256=sha256(later).hexdigest(), bytes=len(later), rows=1,
    )}  # fmt: skip
    recorded = history.add(
        record.model_copy(update={"files": rows}), {**files, "report.json": later}
    )
    with pytest.raises(SetupError, match=r"report\.json: `schema_version` is 3, allowed: 2"):
        read_report(recorded)


def test_the_hash_of_a_spec_is_of_what_it_says(tmp_path: Path, history: History) -> None:
    def hashed(text: str) -> str:
        return record_one(history, tmp_path, ordinary(), text=text).record.spec.sha256

    same = hashed(SPEC)
    assert hashed("# a comment\n" + SPEC.replace("name: tiny", "name: other")) == same
    assert hashed(SPEC.replace("0.1}", "0.2}")) != same
    assert hashed(SPEC.replace("sequences: 8", "sequences: 9")) != same


def test_what_is_elsewhere_is_named_by_its_url(tmp_path: Path) -> None:
    history = History(f"memory://{uuid4().hex}/history/")
    recorded = record_one(history, tmp_path, ordinary())
    assert recorded.path == f"{history.url}records/{recorded.id}"
    assert history.records() == ([recorded], ())


def test_nothing_is_overwritten(tmp_path: Path, history: History) -> None:
    measurement = ordinary()
    case = a_case(tmp_path)
    made = built(case, measurement)
    recorded = history.add(*made)
    with pytest.raises(HistoryError, match="is there already; nothing is overwritten"):
        history.add(*made)
    assert history.records() == ([recorded], ())


def test_a_record_without_its_json_is_none_yet(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary())
    (Path(recorded.path) / "record.json").unlink()
    assert history.records() == ([], ())


def test_what_was_changed_is_found_out(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    kept, changed = (record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b"))
    file = Path(changed.path) / "record.json"
    file.write_bytes(file.read_bytes().replace(b'"fail"', b'"pass"').replace(b"0.05", b"0.04"))
    found, unreadable = history.records()
    assert found == [kept]
    assert unreadable == (f"{file} was changed since it was written: its hash differs",)
    rows = Path(kept.path) / "sequences.parquet"
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(HistoryError, match=r"sequences\.parquet was changed"):
        read_measurement(kept)
    rows.unlink()
    with pytest.raises(HistoryError, match=r"sequences\.parquet: No such file"):
        read_measurement(kept)


def test_one_record_is_read_by_its_id_and_checked(tmp_path: Path, history: History) -> None:
    recorded, other = (record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b"))
    assert history.record(recorded.id) == recorded
    assert history.records()[0] == [recorded, other]
    with pytest.raises(HistoryError, match="No such file"):
        history.record(other.id[:-12] + "0" * 12)
    for name in ("", "a", f"../records/{recorded.id}", f"{recorded.id}/"):
        with pytest.raises(HistoryError, match="is no id of a record"):
            history.record(name)


def test_a_record_that_was_changed_or_moved_to_another_id_is_not_read(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary())
    file = Path(recorded.path) / "record.json"
    elsewhere = recorded.id[:-12] + "0" * 12
    shutil.copytree(recorded.path, tmp_path / "h" / "records" / elsewhere)
    with pytest.raises(HistoryError, match=f"{elsewhere}/record.json was changed since"):
        history.record(elsewhere)
    file.write_bytes(file.read_bytes().replace(b'"someone"', b'"nobody"'))
    with pytest.raises(HistoryError, match=f"{file} was changed since it was written"):
        history.record(recorded.id)


class Offline(MemoryFileSystem):  # type: ignore[misc]
    """What clients raise without a connection is of no common type."""

    protocol = "offline"

    def find(self, path: str, *args: object, **kwargs: object) -> list[str]:
        raise RuntimeError("no connection")

    cat_file = exists = find


def test_what_clients_of_other_places_raise_is_named(tmp_path: Path) -> None:
    fsspec.register_implementation("offline", Offline, clobber=True)
    history = History("offline://h")
    told = "/records.*: RuntimeError: no connection"
    with pytest.raises(HistoryError, match=told):
        history.records()
    with pytest.raises(HistoryError, match=told):
        history.record("20261125T000000Z-v1-000000000000")
    with pytest.raises(HistoryError, match=told):
        record_one(history, tmp_path, ordinary())


def test_git_may_change_the_ends_of_lines(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary())
    file = Path(recorded.path) / "record.json"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert history.records() == ([recorded], ())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("a file")
    with pytest.raises(HistoryError, match=r"h.*: (Not a directory|File exists)"):
        record_one(History(str(tmp_path / "h")), tmp_path, ordinary())
    with pytest.raises(SetupError, match=r"nowhere://.*rotocol not known"):
        History("nowhere://h").records()


def test_what_killed_writers_left_is_no_record_and_goes(tmp_path: Path) -> None:

    history = History(str(tmp_path / "h"))
    old, new = (tmp_path / "h" / "records" / ".partial" / name for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "record.json").write_text("{")
    os.utime(old, (0, 0))
    recorded = record_one(history, tmp_path, ordinary())
    assert history.records() == ([recorded], ())
    assert (old.exists(), new.exists()) == (False, True)


def test_estimates_and_missing_verdicts_are_not_recorded(tmp_path: Path) -> None:
    case = a_case(tmp_path)
    part = ordinary(n=4, of=8)
    with pytest.raises(NotRecordedError, match="4 of the 8 sequences were measured"):
        built(case, part, report_of(case, ordinary()).verdicts)
    broken = Verdict(case.thresholds[0], "error", cause="setup", message="0/0")
    with pytest.raises(NotRecordedError, match="no verdict on kl: 0/0"):
        built(case, ordinary(), [broken])
    with pytest.raises(NotRecordedError, match="nothing was judged"):
        built(case, ordinary(), [])
    control = replace(case, checkpoint=None)
    with pytest.raises(NotRecordedError, match="control"):
        built(control, ordinary())


def test_an_undecided_verdict_counts_as_its_spec_says(tmp_path: Path, history: History) -> None:
    near = SPEC.replace("{max: 0.1}", "{max: 0.05004, confidence: 0.99}")
    assert record_one(history, tmp_path, ordinary(), text=near).record.verdict == "undecided"
    waived = near.replace("0.99}", "0.99, on_undecided: warn}")
    assert record_one(history, tmp_path, ordinary(), text=waived).record.verdict == "warn"


def test_what_stands_for_no_baseline_is_no_name_of_a_version() -> None:
    with pytest.raises(SetupError, match="'none' is no name of a version: as a base") as caught:
        check_name("none")
    assert caught.value.options == ("baseline",)


@pytest.mark.parametrize("name", ["", ".v1", "v/1", "../v1", "v 1", "v1\n", "é", "x" * 65])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(SetupError, match="is no name of a version; allowed: up to 64 letters"):
        check_name(name)


def test_promotions_are_kept_and_the_last_one_holds(tmp_path: Path, history: History) -> None:
    start = datetime(2026, 11, 25, tzinfo=UTC)

    def promoted(recorded: Recorded, reason: str, days: int) -> Promotion:
        promotion = Promotion(
            schema_version=SCHEMA_VERSION, label="v1.2", records=(recorded.promoted,),
            by="someone", created=start + timedelta(days=days), reason=reason,
        )  # fmt: skip
        assert history.promote(promotion).startswith("202611")
        return promotion

    first, second = (record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b"))
    later = promoted(second, "the first was hurried", 1)
    earlier = promoted(first, "good", 0)
    assert history.promotions() == ([earlier, later], ())
    assert promoted_labels([earlier, later]) == {second.id: ["v1.2"]}
    assert b'"the first was hurried"' in to_json(later)


def test_a_record_is_one_folder_that_can_be_moved(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    recorded = record_one(history, tmp_path, ordinary())
    shutil.copytree(tmp_path / "h", tmp_path / "elsewhere")
    (found,), _ = History(str(tmp_path / "elsewhere")).records()
    assert (found.id, found.record) == (recorded.id, recorded.record)
    assert bits(read_measurement(found)) == bits(ordinary())
