"""The Pareto frontier and its verdicts, against the definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import AXES, Pareto, Point, compared

values = st.sampled_from([0.1, 0.2, 0.3, 0.5]) | st.floats(0.01, 1)
points = st.lists(st.builds(Point, st.just("v"), values, values), max_size=8)
axes = st.sampled_from([Pareto("l0", "kl"), Pareto("l0", "reconstruction_score")])


def dominates(pareto: Pareto, one: Point, other: Point) -> bool:
    """Return whether one point dominates the other, by the definition without numeric noise."""
    sign = -1 if METRICS[pareto.y].direction == "higher" else 1
    a, b = (one.x, sign * one.y), (other.x, sign * other.y)
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def within_noise(one: float, other: float) -> bool:
    return one != other and math.isclose(one, other, rel_tol=1.1e-5)


@given(axes, points)
def test_the_frontier_has_the_points_that_no_point_dominates(
    pareto: Pareto, every: list[Point]
) -> None:
    if any(within_noise(a.x, b.x) or within_noise(a.y, b.y) for a in every for b in every):
        return
    expected = [a for a in every if not any(dominates(pareto, b, a) for b in every)]
    assert pareto.frontier(every) == expected
    assert bool(expected) == bool(every)


@given(axes, points, st.builds(Point, st.just("new"), values, values))
def test_a_point_passes_iff_no_record_dominates_it(
    pareto: Pareto, records: list[Point], new: Point
) -> None:
    verdict = compared(pareto, new, records)
    assert verdict.passes == (bool(records) and not verdict.dominated_by)
    assert (new in pareto.frontier([*records, new])) == (not verdict.dominated_by)
    # Order and repetition change nothing, and neither does the point itself among the records.
    again = compared(pareto, new, [*reversed(records), *records, Point("same", new.x, new.y)])
    assert not again.dominated_by or verdict.dominated_by
    assert bool(again.dominated_by) == bool(verdict.dominated_by)


def test_differences_within_noise_do_not_dominate() -> None:
    pareto, new = Pareto("l0", "kl"), Point("new", 16.0, 0.13)
    for x, y, better in (
        (16.0, 0.13, False), (16.0 * (1 - 1e-6), 0.13 * (1 - 1e-6), False),
        (16.0, 0.129, True), (15.9, 0.13 * (1 + 1e-6), True), (15.9, 0.131, False),
    ):  # fmt: skip
        assert bool(compared(pareto, new, [Point("old", x, y)]).dominated_by) == better


def test_without_a_record_nothing_passes() -> None:
    assert not compared(Pareto("l0", "kl"), Point("new", 1, 1), []).passes


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ("l0", "kll", "y is 'kll'; did you mean kl? allowed: "),
        ("l2_ratio", "kl", "x is 'l2_ratio'; "),
        ("kl", "kl", "x and y are both kl"),
    ],
)
def test_a_metric_without_a_better_direction_is_no_axis(x: str, y: str, message: str) -> None:
    problem = Pareto(x, y).problem()
    assert problem is not None
    assert problem.startswith(message)


def test_every_axis_has_a_better_direction() -> None:
    assert all(METRICS[name].direction != "window" for name in set(AXES) - {"l0", "l1"})
    assert all(Pareto(name, "l0").problem() is None for name in set(AXES) - {"l0"})
