"""The outcome of one metric, and the standing from quality and sparsity together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.comparison.metric_move import Outcome, Standing, outcome, standing
from sae_guard.core.metrics import METRICS

CELLS: dict[tuple[Outcome, Outcome], Standing] = {
    ("better", "better"): "dominates",
    ("better", "same"): "dominates",
    ("better", "worse"): "trade-off",
    ("same", "better"): "dominates",
    ("same", "same"): "same",
    ("same", "worse"): "dominated",
    ("worse", "better"): "trade-off",
    ("worse", "same"): "dominated",
    ("worse", "worse"): "dominated",
}
OPPOSITE: dict[Outcome, Outcome] = {"better": "worse", "worse": "better", "same": "same"}


@pytest.mark.parametrize("cell", CELLS)
def test_standing_combines_quality_and_sparsity(cell: tuple[Outcome, Outcome]) -> None:
    assert standing(*cell) == CELLS[cell]


def test_swapping_the_versions_reverses_the_standing() -> None:
    back: dict[Standing, Standing] = {
        "dominates": "dominated", "dominated": "dominates",
        "trade-off": "trade-off", "same": "same",
    }  # fmt: skip
    for (quality, sparsity), expected in CELLS.items():
        assert standing(OPPOSITE[quality], OPPOSITE[sparsity]) == back[expected]
        assert standing(sparsity, quality) == expected


@pytest.mark.parametrize(
    ("name", "before", "after", "p", "expected"),
    [
        ("kl", 0.1, 0.2, 0.001, "worse"),
        ("kl", 0.2, 0.1, 0.001, "better"),
        ("l0", 16, 20, 0.001, "worse"),
        ("l0", 20, 16, 0.001, "better"),
        ("reconstruction_score", 0.9, 0.8, 0.001, "worse"),
        ("reconstruction_score", 0.8, 0.9, 0.001, "better"),
        ("ce_increase", -0.1, 0.1, 0.001, "worse"),
        # A p-value has to be below alpha; equal to it is not enough.
        ("kl", 0.1, 0.2, 0.01, "same"),
        ("kl", 0.1, 0.2, math.nextafter(0.01, 0), "worse"),
        # Numeric noise is no difference, whatever its p-value, which is 0 without variance.
        ("kl", 0.1, 0.1 * (1 + 0.9e-5), 0.0, "same"),
        ("kl", 0.1, 0.1 * (1 + 1.1e-5), 0.0, "worse"),
        ("l0", 16.0, 16.0, 1.0, "same"),
        # No p-value, values that are not finite, or no better direction.
        ("kl", 0.1, 0.2, None, None),
        ("kl", 0.1, 0.2, math.nan, None),
        ("kl", 0.1, math.nan, 0.0, None),
        ("reconstruction_score", 0.1, math.nan, 0.0, None),
        ("reconstruction_score", 0.1, math.inf, 0.0, None),
        ("kl", math.nan, 0.1, math.nan, None),
        ("l2_ratio", 0.9, 0.8, 0.0, None),
    ],
)
def test_outcome_of_a_metric(
    name: str, before: float, after: float, p: float | None, expected: Outcome | None
) -> None:
    assert outcome(METRICS[name], before, after, p, alpha=0.01) == expected


@pytest.mark.parametrize(
    ("name", "before", "inside", "outside"),
    [
        ("kl", 0.2, 0.20199, 0.20201),
        ("l0", 16, 15.841, 15.839),
        # Of a score, of its distance from 1: 0.02.
        ("reconstruction_score", 0.98, 0.97981, 0.97979),
        ("explained_variance", 0.9, 0.9009, 0.9011),
        ("ce_increase", -0.1, -0.1009, -0.1011),
    ],
)
def test_the_margin_is_relative_to_the_earlier_value(
    name: str, before: float, inside: float, outside: float
) -> None:
    def outcome_at(after: float) -> Outcome | None:
        return outcome(METRICS[name], before, after, 0.0, alpha=0.01, margin=0.01)

    assert (outcome_at(before), outcome_at(inside)) == ("same", "same")
    assert outcome_at(outside) in ("better", "worse")
    # Without one, both are moves.
    assert outcome(METRICS[name], before, inside, 0.0, alpha=0.01) == outcome_at(outside)


positive = st.floats(1e-3, 1e3)


@given(positive, positive, st.floats(0, 1), st.floats(1e-4, 0.4))
def test_swapping_the_values_reverses_the_outcome(
    before: float, after: float, p: float, alpha: float
) -> None:
    forward = outcome(METRICS["kl"], before, after, p, alpha=alpha)
    back = outcome(METRICS["kl"], after, before, p, alpha=alpha)
    assert forward is not None
    assert back == OPPOSITE[forward]
