"""What is meant by a reference: an id, a hash, a name, or a label that was promoted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.errors import SetupError
from sae_guard.history import (
    Contents,
    History,
    HistoryError,
    Recorded,
    find_records,
    find_retraction,
    records_of_names,
)
from sae_guard.history.references import weights_of
from tests.helpers.recorded import (
    SPEC,
    ordinary,
    promotion,
    record_member,
    record_one,
    retraction,
)

OTHER = SPEC.replace("name: tiny", "name: other")


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Empty history."""
    return History(str(tmp_path / "h"))


def test_records_are_named_by_id_hash_and_name(history: History, tmp_path: Path) -> None:
    records = [record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b")]
    contents = Contents(records, [])
    first, second = records
    hash_start = first.id.rpartition("-")[2][:8]
    for names in ([first.id], ["a"], [hash_start], ["a", hash_start]):
        assert records_of_names(contents, names) == [first]
    assert records_of_names(contents, ["b", "a"]) == [second]  # the newest of one member
    with pytest.raises(SetupError, match=r"no record 'c': give an id.*allowed: a, b"):
        records_of_names(contents, ["c"])
    with pytest.raises(SetupError, match="there are no records"):
        records_of_names(Contents([], []), ["c"])


def test_a_name_is_a_whole_release(history: History, tmp_path: Path) -> None:
    a, b = (record_member(history, tmp_path, member) for member in ("a", "b"))
    other = record_member(history, tmp_path, "a", text=OTHER)
    record_member(history, tmp_path, "a", "v2")
    records, _ = history.records()
    assert records_of_names(Contents(records, []), ["v1"]) == [a, b, other]
    assert find_records(Contents(records, []), "v1") == [a, b, other]
    assert find_records(Contents(records, []), b.id) == [b]


def test_the_newest_record_of_the_same_weights_counts(history: History, tmp_path: Path) -> None:
    old, other = record_member(history, tmp_path, "a"), record_member(history, tmp_path, "b")
    new = record_member(history, tmp_path, "a", text=SPEC.replace("max: 0.1", "max: 0.08"))
    assert find_records(Contents([old, other, new], []), "v1") == [new, other]


def changed(recorded: Recorded, **values: object) -> Recorded:
    """The same record with other content."""
    return replace(recorded, record=recorded.record.model_copy(update=values))


def test_records_of_other_weights_tokens_hooks_or_options_are_ambiguous(
    history: History, tmp_path: Path
) -> None:
    first = record_member(history, tmp_path, "a")
    provenance, checkpoint = first.record.provenance, first.record.checkpoint
    others = [
        record_member(history, tmp_path, "a", weights="other"),
        changed(first, id="tokens", provenance={**provenance, "corpus": {"sha256": "4" * 64}}),
        changed(first, hook="blocks.2.hook_resid_post"),
        changed(first, hook_out="blocks.2.hook_mlp_out"),
        changed(first, checkpoint=checkpoint.model_copy(update={"options": {"k": 4}})),
    ]
    for other in others:
        with pytest.raises(
            SetupError, match=r"'v1' names 2 records of .*tiny \[a\], expected"
        ) as e:
            find_records(Contents([first, other], []), "v1")
        assert str(e.value).count(f"\n  {first.id}  ") == 1 + (other.id == first.id)
        assert "give the ids of those that are meant, or record the version under" in str(e.value)


def test_what_is_unknown_is_not_the_same(history: History, tmp_path: Path) -> None:
    first = record_member(history, tmp_path, "a")
    for part in ("checkpoint", "corpus"):
        unknown = changed(first, provenance={**first.record.provenance, part: {}})
        with pytest.raises(SetupError, match="are not known to be of the same weights"):
            find_records(Contents([unknown, unknown], []), "v1")


def test_weights_of_two_saes_in_one_file_differ(history: History, tmp_path: Path) -> None:
    recorded = record_member(history, tmp_path, "a")
    row = recorded.record.checkpoint
    one, other, folder, moved = (
        changed(recorded, checkpoint=row.model_copy(update={"reference": reference}))
        for reference in ("x/sae.pt#0", "x/sae.pt#1", "x#1/v1", "x#2/v1")
    )
    assert weights_of(one) != weights_of(other)
    assert weights_of(folder) == weights_of(moved) == weights_of(recorded)


def test_a_config_is_no_weights_but_another_checkpoint(history: History, tmp_path: Path) -> None:
    first = record_member(history, tmp_path, "a")

    def with_config(sha256: str) -> Recorded:
        checkpoint = first.record.provenance["checkpoint"]
        files = {**checkpoint["files"], "cfg.json": sha256}
        checkpoint = {**checkpoint, "files": files}
        return changed(first, provenance={**first.record.provenance, "checkpoint": checkpoint})

    one, other = with_config("5" * 64), with_config("6" * 64)
    assert weights_of(one) == weights_of(other) == weights_of(first)
    assert find_records(Contents([one, one], []), "v1") == [one]
    with pytest.raises(SetupError, match="are not known to be of the same weights, options"):
        find_records(Contents([one, other], []), "v1")


def test_first_digits_of_several_hashes_are_refused(history: History, tmp_path: Path) -> None:
    first = record_one(history, tmp_path, ordinary())
    twins = [replace(first, id=f"{first.id[:-12]}abcd0123456{end}") for end in "78"]
    assert find_records(Contents(twins, []), "abcd01234567") == twins[:1]
    with pytest.raises(SetupError, match="2 hashes begin with 'abcd'; give more digits, or the id"):
        find_records(Contents(twins, []), "abcd")


def test_a_label_means_the_records_that_hold_of_each_spec(history: History, tmp_path: Path) -> None:
    a, b = (record_one(history, tmp_path, ordinary(), name=name) for name in ("a", "b"))
    other = record_one(history, tmp_path, ordinary(), name="a", text=OTHER)
    records = [a, b, other]
    # The label is also the name of a record, which is not what is meant.
    promotions = [promotion(a, "b"), promotion(b, "b", 1), promotion(other, "b", 2)]
    promotions += [promotion(a, "b", 3)]
    assert find_records(Contents(records, promotions), "b") == [other, a]
    assert find_records(Contents(records, []), "b") == [b]
    assert find_records(Contents(records, []), "a") == [a, other]


def test_a_retracted_label_is_refused_unless_asked_for(history: History, tmp_path: Path) -> None:
    recorded = record_one(history, tmp_path, ordinary(), name="v1")
    contents = Contents([recorded], [promotion(recorded, "v1"), retraction(recorded, "v1", 1)])
    sentence = "v1 was retracted on 2026-11-26 by someone: it is broken"
    # It is no way round that a record has the same name.
    with pytest.raises(SetupError, match=sentence):
        find_records(contents, "v1")
    assert find_records(contents, "v1", even_retracted=True) == [recorded]
    assert find_records(contents, recorded.id) == [recorded]
    assert find_retraction(contents, "v1") == contents.promotions[1]
    assert find_retraction(contents, recorded.id) is None


def test_what_no_record_or_none_of_the_spec_is_called_is_refused(
    history: History, tmp_path: Path
) -> None:
    a = record_one(history, tmp_path, ordinary(), name="a")
    with pytest.raises(SetupError, match=r"did you mean v1\.2\? allowed: a, v1\.2"):
        find_records(Contents([a], [promotion(a, "v1.2")]), "v1.3")
    gone = replace(a, id="20261125T000000Z-x-000000000000")
    with pytest.raises(SetupError, match=f"v1 of {a.spec} is {gone.id}, which is no readable"):
        find_records(Contents([a], [promotion(gone, "v1")]), "v1")


@pytest.mark.parametrize("kind", ["records", "promotions"])
def test_a_release_of_which_something_cannot_be_read_is_refused(
    history: History, tmp_path: Path, kind: str
) -> None:
    recorded = record_member(history, tmp_path, "a", "v1")
    file = f"h/{kind}/20261125T000000Z-v1-0123456789ab/{kind[:-1]}.json"
    contents = Contents([recorded], [], (f"{file} was changed since it was written",))
    for find in (find_records, lambda c, name: records_of_names(c, [name])):
        with pytest.raises(HistoryError, match=f"v1 cannot be read whole: {file} was changed"):
            find(contents, "v1")
        assert find(contents, recorded.id) == [recorded]
