"""Thresholds that are looser than at the last promotion, and warnings about unreadable ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.gate.cases import Case
from sae_guard.gate.tracking import Tracking, track
from sae_guard.history import History, Recorded
from tests.helpers.planned import plan_of
from tests.helpers.recorded import (
    SPEC,
    a_case,
    ordinary,
    promotion,
    record_member,
    record_one,
    retraction,
)

TIGHT = SPEC.replace("max: 0.1", "max: 0.08")
OTHER = SPEC.replace("name: tiny", "name: other")
UNREAD = "thresholds of the last promoted version cannot be read: "
NAME = "thresholds/tiny.yaml::tiny"


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Empty history."""
    return History(str(tmp_path / "h"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Checkpoint at the current spec."""
    return a_case(tmp_path / "now")


def promoted(history: History, tmp_path: Path, text: str, label: str, days: int = 0) -> Recorded:
    """Record and promote a version, with this text of its spec."""
    recorded = record_one(history, tmp_path / "before", ordinary(), text=text)
    history.promote(promotion(recorded, label, days))
    return recorded


def test_without_a_promotion_nothing_is_looser(
    history: History, tmp_path: Path, case: Case
) -> None:
    assert track(history, [case]) == Tracking()
    record_one(history, tmp_path / "before", ordinary(), text=TIGHT)
    assert track(history, [case]) == Tracking()


def test_the_last_promotion_of_each_spec_counts(
    history: History, tmp_path: Path, case: Case
) -> None:
    other = a_case(tmp_path / "other", text=OTHER)
    promoted(history, tmp_path, SPEC, "v1.1")
    promoted(history, tmp_path, TIGHT, "v1.2", 1)
    promoted(history, tmp_path, OTHER, "v1.3", 2)
    tracking = track(history, [case, replace(case, member="v2"), other])
    assert tracking.warnings == []
    assert list(tracking.loosened) == [NAME]
    loosened = tracking.loosened[NAME]
    assert loosened.label == "v1.2"
    assert [(c.threshold, c.key, c.old, c.new) for c in loosened.changes] == [
        ("kl", "max", 0.08, 0.1)
    ]
    promoted(history, tmp_path, SPEC, "v1.4", 3)
    assert track(history, [case, other]) == Tracking()


def test_a_retracted_version_is_passed_over(history: History, tmp_path: Path, case: Case) -> None:
    promoted(history, tmp_path, TIGHT, "v1.1")
    last = promoted(history, tmp_path, SPEC, "v1.2", 1)
    assert track(history, [case]) == Tracking()
    history.promote(retraction(last, "v1.2", 2))
    assert track(history, [case]).loosened[NAME].label == "v1.1"


def test_each_member_of_the_last_version_is_compared(
    history: History, tmp_path: Path, case: Case
) -> None:
    same = record_member(history, tmp_path / "before", "a")
    tight = record_member(history, tmp_path / "before", "b", text=TIGHT)
    history.promote(promotion(same, "v1.1", others=[tight]))
    assert track(history, [case]).loosened[NAME].record == tight.id


def test_a_new_pareto_threshold_is_not_looser(history: History, tmp_path: Path, case: Case) -> None:
    with_pareto = SPEC.replace("thresholds:\n", "thresholds:\n  pareto: {x: l0, y: kl}\n")
    promoted(history, tmp_path, SPEC, "v1")
    spec = replace(case.spec, pareto=a_case(tmp_path / "p", text=with_pareto).spec.pareto)
    assert track(history, [replace(case, spec=spec)]) == Tracking()


def test_a_run_of_controls_only_reads_no_history(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("no folder")
    history = History(str(tmp_path / "h"))
    controls = plan_of(SPEC, controls=True).cases[1:]
    assert track(history, controls) == Tracking()
    assert track(history, []) == Tracking()


def test_only_promotions_and_their_records_are_read(
    history: History, tmp_path: Path, case: Case
) -> None:
    recorded = promoted(history, tmp_path, TIGHT, "v1.2")
    other = record_one(history, tmp_path / "before", ordinary())
    for file in ("record.json", "report.json"):
        (Path(other.path) / file).write_text("{")
    (Path(recorded.path) / "report.json").write_text("{")
    tracking = track(history, [case])
    assert (list(tracking.loosened), tracking.warnings) == ([NAME], [])


def test_a_promoted_record_that_cannot_be_read_is_a_warning(
    history: History, tmp_path: Path, case: Case
) -> None:
    recorded = promoted(history, tmp_path, TIGHT, "v1.2")
    other = a_case(tmp_path / "other", text=OTHER)
    promoted(history, tmp_path, OTHER.replace("max: 0.1", "max: 0.08"), "v1.2")
    file = Path(recorded.path) / "record.json"
    file.write_bytes(file.read_bytes() + b" ")
    tracking = track(history, [case, other])
    (warning,) = tracking.warnings
    assert warning.startswith(f"{UNREAD}{NAME} at v1.2: {file} was changed since it was written")
    assert list(tracking.loosened) == ["thresholds/tiny.yaml::other"]


def test_a_promotion_that_cannot_be_read_is_a_warning(
    history: History, tmp_path: Path, case: Case
) -> None:
    promoted(history, tmp_path, TIGHT, "v1.2")
    broken = history.promote(promotion(record_one(history, tmp_path, ordinary()), "v1.3", 1))
    (tmp_path / "h" / "promotions" / broken / "promotion.json").write_text("{")
    tracking = track(history, [case])
    (warning,) = tracking.warnings
    assert warning.startswith(UNREAD)
    assert f"{broken}/promotion.json was changed" in warning
    assert tracking.loosened[NAME].label == "v1.2"


@pytest.mark.parametrize("url", ["nowhere://h", "FILE"])
def test_a_history_that_cannot_be_read_is_a_warning(tmp_path: Path, case: Case, url: str) -> None:
    (tmp_path / "file").write_text("")
    history = History(url.replace("FILE", str(tmp_path / "file")))
    tracking = track(history, [case])
    (warning,) = tracking.warnings
    assert warning.startswith(UNREAD)
    assert tracking.loosened == {}
