"""Thresholds of records from run to run, and since a promotion."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sae_guard.core.pareto import Pareto
from sae_guard.core.threshold_changes import ThresholdChange, bounds_in_force, threshold_changes
from sae_guard.core.thresholds import Threshold
from sae_guard.history import History, Promotion, Recorded
from sae_guard.history.record import SCHEMA_VERSION, ParetoRow, ThresholdRow
from sae_guard.history.threshold_changes import (
    last_promotion,
    loosened,
    recorded_bounds,
    track_thresholds,
)
from tests.helpers.recorded import ordinary, record_one

START = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
def one(tmp_path: Path) -> Recorded:
    return record_one(History(str(tmp_path / "h")), tmp_path, ordinary())


def run(one: Recorded, run: str, minute: int, spec: str = "tiny", **limits: float) -> Recorded:
    """A record of a run, with these maxima."""
    rows = tuple(
        ThresholdRow(metric=metric, max=limit, where="x:1", verdict="pass")
        for metric, limit in limits.items()
    )
    record = one.record.model_copy(
        update={
            "run": run, "created": START + timedelta(minutes=minute), "thresholds": rows,
            "spec": one.record.spec.model_copy(update={"name": spec}),
        }
    )  # fmt: skip
    return Recorded(f"{run}{minute}", "", record)


def steps_of(records: list[Recorded], shown: set[str] | None = None) -> list[tuple[str, list[str]]]:
    """Start of each track, and its steps as text."""
    return [
        (
            track.start.id,
            [
                f"{step.recorded.id} {change.threshold} {change.old}>{change.new}"
                for step in track.steps
                for change in step.changes
            ],
        )
        for track in track_thresholds(
            records, {each.id for each in records} if shown is None else shown
        )
    ]  # fmt: skip


def test_each_run_is_compared_with_the_one_before_it_at_its_spec(one: Recorded) -> None:
    records = [
        run(one, "a", 0, kl=0.3, l0=9), run(one, "b", 1, "other", kl=0.5),
        run(one, "c", 2, kl=0.3, l0=9), run(one, "d", 3, kl=0.2),
    ]  # fmt: skip
    assert steps_of(records) == [("a0", ["d3 kl 0.3>0.2", "d3 l0 9.0>None"]), ("b1", [])]


def test_checkpoints_of_a_run_are_one_and_runs_at_the_same_time_take_no_turns(
    one: Recorded,
) -> None:
    records = [
        run(one, "a", 0, kl=0.3), run(one, "b", 1, kl=0.2), run(one, "a", 2, kl=0.3),
        run(one, "b", 3, kl=0.2), run(one, "a", 4, kl=0.3),
    ]  # fmt: skip
    assert steps_of(records) == [("a0", ["b1 kl 0.3>0.2"])]
    back = [*records, run(one, "c", 5, kl=0.3)]
    assert steps_of(back) == [("a0", ["b1 kl 0.3>0.2", "c5 kl 0.2>0.3"])]


def test_what_is_shown_is_compared_with_what_is_not(one: Recorded) -> None:
    records = [run(one, name, at, kl=1 - at / 10) for at, name in enumerate("abcd")]
    whole = [
        f"{name}{at} kl {1.1 - at / 10:.1f}>{1 - at / 10:.1f}" for at, name in enumerate("abcd")
    ]
    assert steps_of(records) == [("a0", whole[1:])]
    assert steps_of(records, {"a0"}) == [("a0", [])]
    assert steps_of(records, {"b1"}) == [("a0", whole[1:2])]
    assert steps_of(records, {"d3"}) == [("c2", whole[3:])]
    assert steps_of(records, set()) == []
    tracks = [
        track_thresholds(records, shown)[0] for shown in ({"a0"}, {"b1"}, {"b1", "d3"}, {"d3"})
    ]
    assert [(track.started, track.runs) for track in tracks] == [
        (True, 1), (True, 1), (True, 2), (False, 1),
    ]  # fmt: skip


def test_a_record_and_the_spec_that_it_was_made_by_have_the_same_bounds(one: Recorded) -> None:
    in_force = bounds_in_force(
        [Threshold("kl", max=0.1), Threshold("l0", min=1, max=40, warn_max=20)]
    )
    assert list(threshold_changes(recorded_bounds(one.record), in_force)) == []


def promotion(recorded: Recorded, label: str, spec: str | None = None) -> Promotion:
    row = recorded.promoted.model_copy(update={"spec": spec or recorded.spec})
    return Promotion(
        schema_version=SCHEMA_VERSION, label=label, records=(row,), by="someone", created=START,
        reason="good",
    )  # fmt: skip


def test_the_last_promotion_of_a_spec_holds_whatever_its_label(one: Recorded) -> None:
    first, last, other = promotion(one, "v2"), promotion(one, "v1"), promotion(one, "v3", "x::y")
    assert last_promotion([first, last, other], one.spec) is last
    assert last_promotion([first, last, other], "x::y") is other
    assert last_promotion([other], one.spec) is None


def test_the_last_promotion_is_not_one_that_was_retracted(one: Recorded) -> None:
    first, last = promotion(one, "v1"), promotion(one, "v2")
    retraction = last.model_copy(update={"action": "retract"})
    assert last_promotion([first, last, retraction], one.spec) is first
    assert last_promotion([last, retraction], one.spec) is None
    again = promotion(one, "v2")
    assert last_promotion([first, last, retraction, again], one.spec) is again


def test_only_what_is_looser_counts(one: Recorded) -> None:
    tight = [Threshold("kl", max=0.05), Threshold("l0", min=1, max=40, warn_max=20)]
    assert loosened(promotion(one, "v1"), one, tight) is None
    assert loosened(promotion(one, "v1"), one, [*tight, Threshold("cosine", min=0)]) is None
    result = loosened(promotion(one, "v1"), one, [Threshold("kl", max=0.2)])
    assert result is not None
    assert (result.label, result.record, result.by) == ("v1", one.id, "someone")
    assert result.promoted == START
    assert [(m.threshold, m.key, m.old, m.new) for m in result.changes] == [
        ("kl", "max", 0.1, 0.2), ("l0", "min", 1, None), ("l0", "max", 40, None),
        ("l0", "warn_max", 20, None),
    ]  # fmt: skip


def test_pareto_is_a_threshold_too(one: Recorded) -> None:
    row = ParetoRow(x="l0", y="kl", where="spec.yaml:7", verdict="pass", records=1)
    with_pareto = replace(one, record=one.record.model_copy(update={"pareto": row}))
    promoted = promotion(one, "v1")
    spec = [Threshold("kl", max=0.1), Threshold("l0", min=1, max=40, warn_max=20)]
    assert loosened(promoted, with_pareto, spec, Pareto("l0", "kl")) is None
    assert loosened(promoted, with_pareto, spec, Pareto("kl", "l0")) is None  # the same of both
    assert loosened(promoted, one, spec, Pareto("l0", "kl")) is None
    for now in (None, Pareto("l0", "fvu")):
        result = loosened(promoted, with_pareto, spec, now)
        assert result is not None
        removed = ThresholdChange("pareto", "axes", "l0, kl", None, "removed", looser=True)
        assert result.changes == (removed,)
