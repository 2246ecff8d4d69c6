"""A record is read where it stands: in a history, copied out of it, or behind a URL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from sae_guard.history import (
    ChangedError,
    History,
    HistoryError,
    Recorded,
    has_hash,
    read_measurement,
    record_at,
)
from tests.helpers.recorded import bits, ordinary, record_one


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return record_one(History(str(tmp_path / "h")), tmp_path, ordinary())


def copied(recorded: Recorded, to: Path) -> Path:
    shutil.copytree(recorded.path, to)
    return to


def test_a_folder_of_a_history_vouches_for_its_record(recorded: Recorded, tmp_path: Path) -> None:
    for path in (recorded.path, f"{recorded.path}/", str(copied(recorded, tmp_path / recorded.id))):
        found = record_at(path)
        assert has_hash(found.id)
        assert found.record == recorded.record
        assert bits(read_measurement(found)) == bits(ordinary())


def test_a_folder_of_another_name_does_not(recorded: Recorded, tmp_path: Path) -> None:
    found = record_at(str(copied(recorded, tmp_path / "certificate")))
    assert not has_hash(found.id)
    assert (found.id, found.record) == ("certificate", recorded.record)
    assert bits(read_measurement(found)) == bits(ordinary())


def test_behind_a_url(tmp_path: Path) -> None:
    recorded = record_one(History(f"memory://{uuid4().hex}/history"), tmp_path, ordinary())
    found = record_at(recorded.path)
    assert has_hash(found.id)
    assert bits(read_measurement(found)) == bits(ordinary())


def test_a_changed_record_is_found_out_by_its_name_alone(
    recorded: Recorded, tmp_path: Path
) -> None:
    for folder in (Path(recorded.path), copied(recorded, tmp_path / "certificate")):
        record = json.loads((folder / "record.json").read_text())
        record["metrics"]["kl"]["value"] /= 2
        (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(ChangedError, match=r"record\.json was changed since it was written"):
        record_at(recorded.path)
    assert read_measurement(record_at(str(tmp_path / "certificate")))["kl"] == ordinary()["kl"]


@pytest.mark.parametrize("name", ["sequences.parquet", "latents.parquet"])
def test_changed_rows_are_found_out(recorded: Recorded, tmp_path: Path, name: str) -> None:
    folder = copied(recorded, tmp_path / "certificate")
    other = record_one(History(str(tmp_path / "o")), tmp_path, ordinary(kl=0.04))
    data = (Path(other.path) / name).read_bytes()
    (folder / name).write_bytes(data if name.startswith("seq") else data[:-1] + b"x")
    with pytest.raises(ChangedError, match=f"{name} was changed: its sha256 is another"):
        read_measurement(record_at(str(folder)))
    (folder / name).unlink()
    with pytest.raises(HistoryError, match=f"{name}: No such file"):
        read_measurement(record_at(str(folder)))


def test_a_record_names_no_other_files(recorded: Recorded, tmp_path: Path) -> None:
    folder = copied(recorded, tmp_path / "certificate")
    record = json.loads((folder / "record.json").read_text())
    record["files"]["../secret"] = record["files"]["latents.parquet"]
    (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(HistoryError, match=r"its files are .*secret.*, expected latents"):
        read_measurement(record_at(str(folder)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"record\.json: No such file"),
        ("{", "not readable JSON"),
        ("{}", "schema_version is None"),
        ('{"schema_version": 1}', "Field required"),
    ],
)
def test_what_is_no_record_is_said_to_be_none(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    with pytest.raises(HistoryError, match=message) as caught:
        record_at(str(tmp_path))
    assert not isinstance(caught.value, ChangedError)
    assert str(tmp_path / "record.json") in str(caught.value)
