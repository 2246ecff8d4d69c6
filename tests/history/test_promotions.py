"""Tests of `sae_guard.history.promotions`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.history import (
    History,
    Promotion,
    Recorded,
    last_release,
    promoted_labels,
    promoted_releases,
    releases_in_force,
    retraction_message,
)
from sae_guard.history.record import PromotedRecord
from tests.helpers.recorded import SPEC, promotion, record_member, retraction

OTHER = SPEC.replace("name: tiny", "name: other")


@pytest.fixture
def records(tmp_path: Path) -> dict[str, Recorded]:
    """Records of two members in two versions, and of one of them by another spec."""
    history = History(str(tmp_path / "h"))
    return {
        "a1": record_member(history, tmp_path, "a", "v1"),
        "b1": record_member(history, tmp_path, "b", "v1"),
        "a2": record_member(history, tmp_path, "a", "v2"),
        "b2": record_member(history, tmp_path, "b", "v2"),
        "other": record_member(history, tmp_path, "a", "v1", text=OTHER),
    }


def ids(promotions: list[Promotion], label: str) -> set[str]:
    """Ids of the records that a label stands for."""
    return {promoted.record.record for promoted in promoted_releases(promotions)[label].records}


def old(recorded: Recorded, label: str, days: int = 0) -> Promotion:
    """A promotion from before releases had members."""
    row = PromotedRecord(record=recorded.id, spec=recorded.spec)
    return promotion(recorded, label, days).model_copy(update={"records": (row,)})


def test_the_last_promotion_of_a_label_spec_and_member_holds(records: dict[str, Recorded]) -> None:
    a1, b1, a2, other = (records[key] for key in ("a1", "b1", "a2", "other"))
    promotions = [promotion(a1, "v1", others=[b1, other]), promotion(a2, "v1", 1)]
    assert ids(promotions, "v1") == {a2.id, b1.id, other.id}
    assert promoted_labels(promotions) == {a2.id: ["v1"], b1.id: ["v1"], other.id: ["v1"]}


def test_a_removed_member_is_no_longer_in_the_release(records: dict[str, Recorded]) -> None:
    a1, b1, a2, other = (records[key] for key in ("a1", "b1", "a2", "other"))
    first = promotion(a1, "v1", others=[b1, other])
    assert ids([first, promotion(a2, "v1", 1, removed=(b1.promoted,))], "v1") == {a2.id, other.id}


def test_an_old_promotion_names_the_only_record_of_its_spec(records: dict[str, Recorded]) -> None:
    a1, b1, a2, b2, other = records.values()
    promotions = [old(a1, "v1"), old(other, "v1", 1)]
    assert ids(promotions, "v1") == {a1.id, other.id}
    assert ids([*promotions, old(b1, "v1", 2)], "v1") == {b1.id, other.id}
    assert ids([*promotions, promotion(a2, "v1", 2, others=[b2])], "v1") == {
        a2.id, b2.id, other.id,
    }  # fmt: skip


def test_a_retracted_label_is_in_force_only_if_promoted_again(records: dict[str, Recorded]) -> None:
    a1, b1, a2 = (records[key] for key in ("a1", "b1", "a2"))
    promotions = [promotion(a1, "v1", others=[b1]), retraction(a1, "v1", 1)]
    release = promoted_releases(promotions)["v1"]
    assert release.retraction == promotions[1]
    assert ids(promotions, "v1") == {a1.id, b1.id}  # what it stood for
    assert releases_in_force(promotions) == {}
    assert promoted_labels(promotions) == {}
    promotions.append(promotion(a2, "v1", 2))
    assert promoted_releases(promotions)["v1"].retraction is None
    assert ids(promotions, "v1") == {a2.id}  # nothing of what was retracted comes back


def test_the_last_release_is_the_last_one_in_force(records: dict[str, Recorded]) -> None:
    a1, _, a2, *_ = records.values()
    promotions = [promotion(a2, "v2"), promotion(a1, "v1", 1), retraction(a1, "v1", 2)]
    labels = [
        release.label if (release := last_release(promotions[:n])) else None for n in range(4)
    ]
    assert labels == [None, "v2", "v1", "v2"]


def test_a_retraction_is_said_with_date_user_and_reason(records: dict[str, Recorded]) -> None:
    message = retraction_message(retraction(records["a1"], "v1"))
    assert message == "v1 was retracted on 2026-11-25 by someone: it is broken"
