"""Thresholds from run to run: tightened, loosened, added, removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.pareto import Pareto
from sae_guard.core.thresholds import OnUndecided, Threshold
from sae_guard.history import History, Promotion, Recorded
from sae_guard.history.record import ParetoRow, ThresholdRow
from sae_guard.history.threshold_changes import (
    Bounds,
    Move,
    bounds_in_force,
    last_promotion,
    looser,
    moves,
    recorded_bounds,
    tracked,
)
from sae_guard.render import looser_line
from tests.helpers.recorded import ordinary, record_one

START = datetime(2026, 11, 25, tzinfo=UTC)
CONFIDENCES = (0.625, 0.75, 0.875)
"""Which, like the widths, make sums without rounding."""
WIDTHS = (0.0, 0.25, 0.5, 2.0)


@dataclass(frozen=True)
class Given:
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    on_undecided: OnUndecided = "fail"
    change: str | None = None


@st.composite
def bounds(draw: st.DrawFn) -> Given:
    """What a spec may say, from 0 to 9."""
    low, warn_low, warn_high, high = sorted(
        draw(st.sets(st.integers(0, 9), min_size=4, max_size=4))
    )
    sides = draw(st.sampled_from(["max", "min", "both"]))
    some = st.sampled_from
    confidence = draw(st.none() | some(CONFIDENCES))
    return Given(
        max=high if sides != "min" else None,
        min=low if sides != "max" else None,
        warn_max=draw(some([None, warn_high])) if sides != "min" else None,
        warn_min=draw(some([None, warn_low])) if sides != "max" else None,
        confidence=confidence,
        on_undecided=draw(some(["fail", "warn"])) if confidence else "fail",
    )


thresholds = st.dictionaries(st.sampled_from(["kl", "l0"]), bounds(), max_size=2)


def passes(given: Bounds | None, value: float, width: float) -> bool:
    """By the definition of a verdict; the interval is wider the more confidence is asked for."""
    if given is None:
        return True

    def inside(found: float) -> bool:
        return (given.max is None or found <= given.max) and (
            given.min is None or found >= given.min
        )

    if given.confidence is None:
        return inside(value)
    low, high = value - given.confidence * width, value + given.confidence * width
    if inside(low) and inside(high):
        return True
    beyond = (given.max is not None and low > given.max) or (
        given.min is not None and high < given.min
    )
    return not beyond and given.on_undecided == "warn"


def quiet(given: Bounds | None, value: float) -> bool:
    """Whether a value passes a threshold without a confidence, and without a warning."""
    return given is None or (
        passes(Given(given.max, given.min), value, 0)
        and passes(Given(given.warn_max, given.warn_min), value, 0)
    )


def samples() -> list[tuple[float, float]]:
    """Values and widths at which verdicts turn, and between."""
    shifts = {sign * c * w for sign, c, w in product((-1, 1), (*CONFIDENCES, 0), WIDTHS)}
    values = {bound + shift for bound in range(-1, 11) for shift in (*shifts, 0.0625, -0.0625)}
    return [(value, width) for value in sorted(values) for width in WIDTHS]


SAMPLES = samples()


@given(thresholds, thresholds)
def test_where_nothing_is_looser_nothing_passes_that_did_not(
    old: dict[str, Bounds], new: dict[str, Bounds]
) -> None:
    found = list(moves(old, new))
    for name in {*old, *new}:
        before, after = old.get(name), new.get(name)
        own = [move for move in found if move.threshold == name]
        if not any(move.looser for move in own if not move.key.startswith("warn")):
            assert all(passes(before, *s) for s in SAMPLES if passes(after, *s))
        if not any(move.looser for move in own):
            assert all(quiet(before, s[0]) for s in SAMPLES if quiet(after, s[0]))


@given(bounds(), bounds(), st.sampled_from(["max", "min", "warn_max", "warn_min", "confidence"]))
def test_of_one_key_alone_looser_is_what_lets_more_pass(old: Given, other: Given, key: str) -> None:
    new = replace(old, **{key: getattr(other, key)})
    found = list(moves({"kl": old}, {"kl": new}))
    assert len(found) == (old != new)
    for move in found:
        assert (move.threshold, move.key) == ("kl", key)
        assert (move.old, move.new) == (getattr(old, key), getattr(new, key))
        if key.startswith("warn"):
            more = any(quiet(new, s[0]) and not quiet(old, s[0]) for s in SAMPLES)
        else:
            more = any(passes(new, *s) and not passes(old, *s) for s in SAMPLES)
        assert move.looser == more


@given(thresholds, thresholds)
def test_back_again_is_the_reverse(old: dict[str, Bounds], new: dict[str, Bounds]) -> None:
    reverse = {"tightened": "loosened", "loosened": "tightened", "added": "removed",
               "removed": "added"}  # fmt: skip
    there = {(m.threshold, m.key, m.old, m.new, m.change) for m in moves(old, new)}
    back = {(m.threshold, m.key, m.new, m.old, reverse[m.change]) for m in moves(new, old)}
    assert there == back
    assert (there == set()) == (old == new)
    assert list(moves(new, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (Given(max=0.1), Given(max=0.12), [("max", "loosened", True)]),
        (Given(max=0.12), Given(max=0.1), [("max", "tightened", False)]),
        (Given(min=0.9), Given(min=0.95), [("min", "tightened", False)]),
        (Given(min=0.9), Given(min=0.8), [("min", "loosened", True)]),
        (Given(max=1), Given(max=1, min=0.5), [("min", "added", False)]),
        (Given(max=1, min=0.5), Given(max=1), [("min", "removed", True)]),
        (None, Given(max=1, warn_max=0.9), [("max", "added", False), ("warn_max", "added", False)]),
        (Given(max=1, confidence=0.9), None, [("max", "removed", True)]),
        (Given(max=1, warn_max=0.8), Given(max=1, warn_max=0.9), [("warn_max", "loosened", True)]),
        (Given(max=1, warn_max=0.8), Given(max=1), [("warn_max", "removed", True)]),
        # Everything that was warned about fails now.
        (Given(max=1, warn_max=0.8), Given(max=0.7),
         [("max", "tightened", False), ("warn_max", "removed", False)]),
        (Given(max=1), Given(max=1, confidence=0.99), [("confidence", "tightened", False)]),
        (Given(max=1, confidence=0.9), Given(max=1, confidence=0.99),
         [("confidence", "tightened", False)]),
        (Given(max=1, confidence=0.99), Given(max=1), [("confidence", "loosened", True)]),
        (Given(max=1, confidence=0.9), Given(max=1, confidence=0.9, on_undecided="warn"),
         [("on_undecided", "loosened", True)]),
        # What is undecided passes: the wider the interval, the more of it.
        (Given(max=1, confidence=0.9, on_undecided="warn"),
         Given(max=1, confidence=0.99, on_undecided="warn"), [("confidence", "loosened", True)]),
        (Given(max=1), Given(max=1, confidence=0.99, on_undecided="warn"),
         [("confidence", "loosened", True), ("on_undecided", "loosened", True)]),
    ],
)  # fmt: skip
def test_kinds_of_moves(
    old: Given | None, new: Given | None, told: list[tuple[str, str, bool]]
) -> None:
    before: dict[str, Bounds] = {"kl": old} if old else {}
    after: dict[str, Bounds] = {"kl": new} if new else {}
    assert [(m.key, m.change, m.looser) for m in moves(before, after)] == told


def test_a_share_and_a_difference_do_not_compare() -> None:
    share, difference = Given(max=0.02, change="share"), Given(max=0.01, change="difference")
    found = moves({"kl.change": share}, {"kl.change": difference})
    assert [(m.old, m.new, m.change, m.looser, m.share) for m in found] == [
        (0.02, None, "removed", True, True), (None, 0.01, "added", False, False),
    ]  # fmt: skip
    (wider,) = moves({"kl.change": share}, {"kl.change": replace(share, max=0.03)})
    assert (wider.change, wider.looser, wider.share) == ("loosened", True, True)
    plain, empty = Given(max=1), Given(max=1, change="")  # as records have it, and as specs do
    assert list(moves({"kl": plain}, {"kl": empty})) == []


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


def told(records: list[Recorded], shown: set[str] | None = None) -> list[tuple[str, list[str]]]:
    """Start of each track, and its steps as text."""
    return [
        (
            track.start.id,
            [
                f"{step.recorded.id} {move.threshold} {move.old}>{move.new}"
                for step in track.steps
                for move in step.moves
            ],
        )
        for track in tracked(records, {each.id for each in records} if shown is None else shown)
    ]  # fmt: skip


def test_each_run_is_compared_with_the_one_before_it_at_its_spec(one: Recorded) -> None:
    records = [
        run(one, "a", 0, kl=0.3, l0=9), run(one, "b", 1, "other", kl=0.5),
        run(one, "c", 2, kl=0.3, l0=9), run(one, "d", 3, kl=0.2),
    ]  # fmt: skip
    assert told(records) == [("a0", ["d3 kl 0.3>0.2", "d3 l0 9.0>None"]), ("b1", [])]


def test_checkpoints_of_a_run_are_one_and_runs_at_the_same_time_take_no_turns(
    one: Recorded,
) -> None:
    records = [
        run(one, "a", 0, kl=0.3), run(one, "b", 1, kl=0.2), run(one, "a", 2, kl=0.3),
        run(one, "b", 3, kl=0.2), run(one, "a", 4, kl=0.3),
    ]  # fmt: skip
    assert told(records) == [("a0", ["b1 kl 0.3>0.2"])]
    back = [*records, run(one, "c", 5, kl=0.3)]
    assert told(back) == [("a0", ["b1 kl 0.3>0.2", "c5 kl 0.2>0.3"])]


def test_what_is_shown_is_compared_with_what_is_not(one: Recorded) -> None:
    records = [run(one, name, at, kl=1 - at / 10) for at, name in enumerate("abcd")]
    whole = [
        f"{name}{at} kl {1.1 - at / 10:.1f}>{1 - at / 10:.1f}" for at, name in enumerate("abcd")
    ]
    assert told(records) == [("a0", whole[1:])]
    assert told(records, {"a0"}) == [("a0", [])]
    assert told(records, {"b1"}) == [("a0", whole[1:2])]
    assert told(records, {"d3"}) == [("c2", whole[3:])]
    assert told(records, set()) == []
    tracks = [tracked(records, shown)[0] for shown in ({"a0"}, {"b1"}, {"b1", "d3"}, {"d3"})]
    assert [(track.started, track.runs) for track in tracks] == [
        (True, 1), (True, 1), (True, 2), (False, 1),
    ]  # fmt: skip


def test_a_record_and_the_spec_that_it_was_made_by_have_the_same_bounds(one: Recorded) -> None:
    in_force = bounds_in_force(
        [Threshold("kl", max=0.1), Threshold("l0", min=1, max=40, warn_max=20)]
    )
    assert list(moves(recorded_bounds(one.record), in_force)) == []


def promotion(recorded: Recorded, label: str, spec: str | None = None) -> Promotion:
    return Promotion(
        schema_version=1, label=label, record=recorded.id, spec=spec or recorded.spec, by="someone",
        created=START, reason="good",
    )  # fmt: skip


def test_the_last_promotion_of_a_spec_holds_whatever_its_label(one: Recorded) -> None:
    first, last, other = promotion(one, "v2"), promotion(one, "v1"), promotion(one, "v3", "x::y")
    assert last_promotion([first, last, other], one.spec) is last
    assert last_promotion([first, last, other], "x::y") is other
    assert last_promotion([other], one.spec) is None


def test_only_what_is_looser_is_told(one: Recorded) -> None:
    tight = [Threshold("kl", max=0.05), Threshold("l0", min=1, max=40, warn_max=20)]
    assert looser(promotion(one, "v1"), one.record, tight) is None
    assert looser(promotion(one, "v1"), one.record, [*tight, Threshold("cosine", min=0)]) is None
    found = looser(promotion(one, "v1"), one.record, [Threshold("kl", max=0.2)])
    assert found is not None
    assert found.spec == one.spec
    assert [(m.threshold, m.key, m.old, m.new) for m in found.moves] == [
        ("kl", "max", 0.1, 0.2), ("l0", "min", 1, None), ("l0", "max", 40, None),
        ("l0", "warn_max", 20, None),
    ]  # fmt: skip


def test_pareto_is_a_threshold_too(one: Recorded) -> None:
    row = ParetoRow(x="l0", y="kl", where="spec.yaml:7", verdict="pass", records=1)
    with_pareto = one.record.model_copy(update={"pareto": row})
    told = promotion(one, "v1")
    spec = [Threshold("kl", max=0.1), Threshold("l0", min=1, max=40, warn_max=20)]
    assert looser(told, with_pareto, spec, Pareto("l0", "kl")) is None
    assert looser(told, with_pareto, spec, Pareto("kl", "l0")) is None  # the same of both
    assert looser(told, one.record, spec, Pareto("l0", "kl")) is None
    for now in (None, Pareto("l0", "fvu")):
        found = looser(told, with_pareto, spec, now)
        assert found is not None
        assert found.moves == (Move("pareto", "axes", "l0, kl", None, "removed", looser=True),)
        assert looser_line(found).endswith("pareto axes l0, kl removed")
