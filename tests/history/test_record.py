"""The JSON of records: strict, and its schema has a version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.history import History, HistoryError, Promotion, Record, Recorded, record
from sae_guard.history.parquet import provenance_json
from sae_guard.history.record import parse, to_json
from tests.helpers.recorded import any_measurements, ordinary, record_one

KEPT = Path(__file__).with_name("data") / "record_schema_1.json"
"""Written by the first version that wrote records, and never changed."""
PROMOTED = Path(__file__).with_name("data") / "promotion_schema_1.json"
"""A promotion of one record, as the versions before releases had members wrote it."""


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A record as plain JSON."""
    recorded = record_one(History(str(tmp_path / "h")), tmp_path, ordinary())
    found: dict[str, Any] = json.loads(to_json(recorded.record))
    return found


def test_what_the_first_version_wrote_is_read() -> None:
    found = parse(Record, KEPT.read_bytes(), str(KEPT))
    assert found.schema_version == record.SCHEMA_VERSION
    assert (found.name, found.verdict, found.spec.name) == ("v1", "pass", "tiny")
    assert found.metrics["kl"].value == 0.050034999999999996
    assert found.metrics["kl"].formula_version == 1
    assert "needs 10,000 scored tokens" in (found.metrics["dead_latents"].undefined or "")
    assert [row.verdict for row in found.thresholds] == ["pass", "pass"]
    assert found.provenance["checkpoint"]["files"] == {"sae.safetensors": "1" * 64}


def test_a_record_from_before_members_had_names_says_so(document: dict[str, Any]) -> None:
    old = Recorded("id", "path", parse(Record, KEPT.read_bytes(), str(KEPT)))
    assert (old.member, old.named_by) == ("v1", None)
    row = {**document["checkpoint"], "label": "layer_0/k16", "named_by": "manifest"}
    data = json.dumps({**document, "checkpoint": row}).encode()
    new = Recorded("id", "path", parse(Record, data, "record.json"))
    assert (new.member, new.named_by) == ("layer_0/k16", "manifest")
    assert new.case == "thresholds/tiny.yaml::tiny [layer_0/k16]"
    assert b'"named_by": "manifest"' in to_json(new.record)


def test_a_promotion_of_one_record_is_read() -> None:
    promotion = parse(Promotion, PROMOTED.read_bytes(), str(PROMOTED))
    assert (promotion.label, promotion.action, promotion.removed) == ("v1.2", "promote", ())
    (row,) = promotion.records
    assert row.record == "20261125T191836Z-v1-0123456789ab"
    assert (row.spec, row.member) == ("thresholds/tiny.yaml::tiny", None)
    assert parse(Promotion, to_json(promotion), "promotion.json") == promotion


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("record", None, "records.0.record: Field required"),
        ("spec", 5, "records.0.spec: Input should be a valid string"),
        ("reason", " ", "reason: String should have at least 1 character"),
        ("action", "undo", "action: Input should be 'promote' or 'retract'"),
    ],
)
def test_what_is_no_promotion_is_refused_by_key(key: str, value: Any, message: str) -> None:
    document = {**json.loads(PROMOTED.read_text()), key: value}
    if value is None:
        del document[key]
    if key == "record":
        document["records"] = [{"spec": document.pop("spec")}]
        document["schema_version"] = record.SCHEMA_VERSION
    with pytest.raises(HistoryError, match=re.escape(f"h/promotion.json: {message}")):
        parse(Promotion, json.dumps(document).encode(), "h/promotion.json")


def test_an_older_schema_is_brought_up_to_date(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(old: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in old.items() if k != "author"}, "by": old["author"]}

    older = {**document, "schema_version": 0, "author": document["by"]}
    del older["by"]
    monkeypatch.setattr(record, "_UPGRADES", {**record._UPGRADES, 0: renamed})
    found = parse(Record, json.dumps(older).encode(), "old.json")
    assert found == parse(Record, json.dumps(document).encode(), "new.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "schema_version 3 is of a later sae_guard; this one reads up to 2"),
        ({"schema_version": -1}, "schema_version -1 is unknown"),
        ({"schema_version": "1"}, "schema_version is '1', expected a number"),
        ({"schema_version": None}, "schema_version is None, expected a number"),
        ({"verdict": "fine"}, "verdict: Input should be 'pass'"),
        ({"metrics": {"kl": {"value": 0.1}}}, "metrics.kl.formula_version: Field required"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"name": "../v1"}, "name: String should match"),
        ({"created": "2026-11-25T19:00:00"}, "created: Input should have timezone info"),
    ],
)
def test_what_is_no_record_is_refused_by_file_and_key(
    document: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    data = json.dumps({**document, **change}).encode()
    with pytest.raises(HistoryError) as refused:
        parse(Record, data, "h/record.json")
    assert str(refused.value).startswith(f"h/record.json: {message}")


@given(any_measurements())
def test_any_provenance_comes_back_equal(measurement: Measurement) -> None:
    kept = parse(Record, KEPT.read_bytes(), str(KEPT))
    record = kept.model_copy(update={"provenance": provenance_json(measurement.provenance)})
    found = parse(Record, to_json(record), "record.json")
    assert found == record
    assert Provenance(**found.provenance) == measurement.provenance


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": NaN}', '"\\ud800"'])
def test_what_is_no_object_is_refused_by_file(text: str) -> None:
    with pytest.raises(HistoryError, match=r"^h/record\.json: "):
        parse(Record, text.encode(), "h/record.json")


def test_numbers_that_json_cannot_say_are_refused(document: dict[str, Any]) -> None:
    for constant in ("NaN", "Infinity", "-Infinity"):
        text = json.dumps(document).replace('"dtype": "float32"', f'"dtype": {constant}')
        with pytest.raises(HistoryError, match=rf"^h/record\.json: not .*: {constant} is no JSON"):
            parse(Record, text.encode(), "h/record.json")
