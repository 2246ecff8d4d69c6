"""What is meant by a reference: an id, a hash, a name, or a label that was promoted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.errors import SetupError
from sae_guard.history import Contents, History, find_records, pick
from sae_guard.history.references import find_spec_record
from tests.helpers.recorded import SPEC, ordinary, promotion, record_one

OTHER = SPEC.replace("name: tiny", "name: other")


def test_records_are_picked_by_id_hash_and_name(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    records = [record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b", "b")]
    first = records[0]
    assert pick(records, first.id) == pick(records, "a") == first
    assert pick(records, first.id.rpartition("-")[2][:8]) == first
    with pytest.raises(SetupError, match=r"'b' names 2 records; give the id of one:") as refused:
        pick(records, "b")
    assert records[2].id in str(refused.value)
    with pytest.raises(SetupError, match=r"no record 'c': give an id.*allowed: a, b"):
        pick(records, "c")
    with pytest.raises(SetupError, match="there are no records"):
        pick([], "c")


def test_a_label_means_the_record_that_holds_of_each_spec(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    a, b = (record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b"))
    other = record_one(history, tmp_path, ordinary(), name="a", text=OTHER)
    records = [a, b, other]
    # The label is also the name of a record, which is not what is meant.
    promotions = [promotion(a, "b"), promotion(b, "b", 1), promotion(other, "b", 2)]
    promotions += [promotion(a, "b", 3)]
    assert find_records(Contents(records, promotions), "b") == [a, other]
    assert find_records(Contents(records, []), "b") == [b]
    assert find_records(Contents(records, []), "a") == [a, other]
    assert find_spec_record(Contents(records, promotions), "b", other.spec) == other
    assert find_spec_record(Contents(records, []), "a", a.spec) == a
    assert find_spec_record(Contents(records, promotions), b.id, b.spec) == b


def test_what_no_record_or_none_of_the_spec_is_called_is_refused(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    a = record_one(history, tmp_path, ordinary(), name="a")
    again = record_one(history, tmp_path, ordinary(), name="a")
    with pytest.raises(SetupError, match=r"did you mean v1\.2\? allowed: a, v1\.2"):
        find_records(Contents([a], [promotion(a, "v1.2")]), "v1.3")
    with pytest.raises(SetupError, match="has no record by x::y, but by thresholds"):
        find_spec_record(Contents([a], []), "a", "x::y")
    with pytest.raises(SetupError, match="'a' names 2 records; give the id of one"):
        find_spec_record(Contents([a, again], []), "a", a.spec)
    gone = replace(again, id="20261125T000000Z-x-000000000000")
    with pytest.raises(SetupError, match=f"v1 of {a.spec} is {gone.id}, which is no readable"):
        find_records(Contents([a], [promotion(gone, "v1")]), "v1")
