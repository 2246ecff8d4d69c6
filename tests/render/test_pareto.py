"""The Pareto frontier: headline, plot and legend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.pareto import Pareto, Point, compared
from sae_guard.render.pareto import not_compared, pareto_failure, pareto_headline, scatter_plot

PARETO = Pareto("l0", "kl", "thresholds/demo.yaml", 30)
V1, V2, V3 = Point("v1", 16.0, 0.21), Point("v2", 15.98, 0.13), Point("v3", 15.8, 0.37)
points = st.builds(Point, st.text("abc", min_size=1, max_size=12), st.floats(0, 1e6),
                   st.floats(0, 1e3))  # fmt: skip


def test_the_headline_names_the_better_record_and_the_differences() -> None:
    assert pareto_headline(compared(PARETO, V1, [V2, V3])) == (
        "pareto: dominated in l0 and kl by v2 (l0 15.98, here 16, +0.02; kl 0.13, here 0.21, +0.08)"
    )
    assert pareto_headline(compared(PARETO, V1, [V2, V2])).startswith(
        "pareto: dominated in l0 and kl by v2 and 1 more ("
    )
    assert pareto_headline(compared(PARETO, V2, [V1, V3])) == (
        "pareto: not dominated in l0 and kl (l0 15.98, kl 0.13; 2 records)"
    )


def test_the_headline_has_digits_until_the_two_differ() -> None:
    old, new = Point("v1", 16.0, 0.150312), Point("v2", 16.00000001, 0.150348)
    assert pareto_headline(compared(PARETO, new, [old])) == (
        "pareto: dominated in l0 and kl by v1 (l0 16 in both; kl 0.15031, here 0.15035, +3.6e-05)"
    )


def test_a_failure_has_spec_line_plot_and_records_left_out() -> None:
    text = pareto_failure(compared(PARETO, V1, [V2, V3], ["v0 (abc): other tokens"]))
    lines = text.splitlines()
    assert lines[1] == "thresholds/demo.yaml:30: pareto: {x: l0, y: kl}"
    assert lines[-4:] == [
        "  @ v1  l0 16, kl 0.21",
        "  A v2  l0 15.98, kl 0.13  on the frontier",
        "  B v3  l0 15.8, kl 0.37  on the frontier",
        "not compared: v0 (abc): other tokens",
    ]


def test_of_many_records_left_out_the_newest_are_listed() -> None:
    names = [f"v{i}" for i in range(8)]
    lines = list(not_compared(compared(PARETO, V2, [V3], names)))
    assert lines == [*(f"not compared: v{i}" for i in range(3, 8)), "not compared: 3 older"]
    assert list(not_compared(compared(PARETO, V2, [V3]))) == []


@pytest.mark.parametrize("pareto", [PARETO, Pareto("reconstruction_score", "cosine")])
def test_points_are_to_scale_and_stairs_join_the_frontier(pareto: Pareto) -> None:
    drawn = list(scatter_plot(pareto, [Point("a", 0, 1), Point("b", 1, 0)], Point("new", 0.5, 0.5)))
    rows = [line for line in drawn if "│" in line]
    at = {
        letter: (line.index(letter), row)
        for row, line in enumerate(rows)
        for letter in "AB@"
        if letter in line
    }
    assert at["A"][0] < at["@"][0] < at["B"][0]
    assert at["A"][1] < at["@"][1] < at["B"][1]
    # Where less is better, stairs lead from A to the right; else from B to the left.
    letter, step = ("A", 1) if pareto == PARETO else ("B", -1)
    column, row = at[letter]
    assert rows[row][column + step] == "·"


@given(st.lists(points, max_size=30), st.none() | points)
def test_every_point_is_in_the_legend_within_80_columns(
    every: list[Point], new: Point | None
) -> None:
    lines = list(scatter_plot(PARETO, every, new))
    assert (lines == []) == (not every and new is None)
    assert sum(", kl " in line for line in lines) == len(every) + (new is not None)
    assert all(len(line) <= 80 for line in lines if ", kl " not in line)
