"""A metric from record to record, in lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.errors import SetupError
from sae_guard.history import History, Recorded
from sae_guard.render.trend import _WIDTH, trend
from tests.helpers.recorded import SPEC, ordinary, record_one


@pytest.fixture
def records(tmp_path: Path) -> list[Recorded]:
    """Records of three versions, the last of which fails."""
    history = History(str(tmp_path / "h"))
    return [
        record_one(history, tmp_path, ordinary(kl), name=f"v{number}")
        for number, kl in enumerate((0.05, 0.04, 0.2), 1)
    ]


def test_each_record_is_a_line_with_value_interval_and_verdict(records: list[Recorded]) -> None:
    title, place, *lines, blank = trend(records, "kl")
    assert title == "kl (nats, lower is better)  thresholds/tiny.yaml::tiny"
    assert place == "  blocks.1.hook_resid_post, tokens 22222222, formula version 1"
    assert blank == ""
    assert [line.split()[1:-2] for line in lines] == [
        ["v1", "0.05003", "±", "2e-05"],  # and not [v1] beside it
        ["v2", "[v1]", "0.04004", "±", "2e-05"],
        ["v3", "[v1]", "0.2", "±", "2e-05"],
    ]
    assert [line.split()[-1] for line in lines] == ["pass", "pass", "FAIL"]
    assert max(map(len, (title, place, *lines))) <= 100


def test_the_drawing_is_to_scale(records: list[Recorded]) -> None:
    _, _, *lines, _ = trend(records, "kl")
    drawings = [line.split()[-2] for line in lines]
    assert {len(drawing) for drawing in drawings} == {_WIDTH}
    low, high = 0.04001, 0.20006  # from the lowest interval to the highest
    for drawing, value in zip(drawings, (0.05, 0.04, 0.2), strict=True):
        assert abs(drawing.index("●") - (value - low) / (high - low) * (_WIDTH - 1)) <= 1
        assert abs(drawing.index("│") - (0.1 - low) / (high - low) * (_WIDTH - 1)) <= 1


def test_wide_intervals_are_drawn_and_far_bounds_are_not(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    wide = ordinary(0.05)
    sums = {**wide.sums, "kl": wide.sums["kl"] * [1, 3, 1, 3, 1, 3, 1, 3]}
    text = SPEC.replace("max: 0.1", "max: 9")
    recorded = record_one(history, tmp_path, replace(wide, sums=sums), text=text)
    _, _, line, _ = trend([recorded], "kl")
    drawing = line.split()[-2]
    assert (drawing[0], drawing[-1], drawing.count("│")) == ("├", "┤", 0)
    assert abs(drawing.index("●") - _WIDTH // 2) <= 1


def test_each_comparable_group_has_its_own_drawing(records: list[Recorded], tmp_path: Path) -> None:
    other = ordinary()
    tokens = replace(other.provenance, corpus={"n_sequences": 8, "sha256": "4" * 64})
    more = record_one(
        History(str(tmp_path / "h")), tmp_path, replace(other, provenance=tokens), name="v4"
    )
    lines = list(trend([*records, more], "kl"))
    assert [line for line in lines if "tokens" in line] == [
        "  blocks.1.hook_resid_post, tokens 22222222, formula version 1",
        "  blocks.1.hook_resid_post, tokens 44444444, formula version 1",
    ]


def test_shares_and_differences_have_their_own_drawings(records: list[Recorded]) -> None:
    def changed(recorded: Recorded, kind: str, value: float) -> Recorded:
        values = {"metric": "kl.change", "change": kind, "value": value}
        row = recorded.record.thresholds[0].model_copy(update=values)
        return replace(recorded, record=recorded.record.model_copy(update={"thresholds": (row,)}))

    changes = [changed(records[0], "share", 0.02), changed(records[1], "difference", 3e-4)]
    lines = list(trend(changes, "kl.change"))
    titles = [line.partition(", lower")[0] for line in lines if line.startswith("kl.change")]
    assert titles == ["kl.change (nats", "kl.change (share"]


def test_targets_of_thresholds_have_a_trend_and_may_be_undefined(tmp_path: Path) -> None:
    history = History(str(tmp_path / "h"))
    text = SPEC.replace("{max: 0.1}", "{max: 0.1, worst_sequence: {max: 0.3}}")
    recorded = record_one(history, tmp_path, ordinary(), text=text)
    title, _, line, _ = trend([recorded], "kl.worst_sequence")
    assert title.startswith("kl.worst_sequence (nats, lower is better)")
    assert "  0.05007  " in line
    assert line.endswith("pass")
    _, _, line, _ = trend([recorded], "dead_latents")
    assert line.endswith("  undefined")
    with pytest.raises(SetupError, match="'cosin'; did you mean cosine"):
        list(trend([recorded], "cosin"))
