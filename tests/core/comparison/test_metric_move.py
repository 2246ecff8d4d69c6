"""Better, worse or the same, and what quality and sparsity say together."""

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
def test_quality_and_sparsity_together(cell: tuple[Outcome, Outcome]) -> None:
    assert standing(*cell) == CELLS[cell]


def test_there_and_back_is_the_opposite() -> None:
    back: dict[Standing, Standing] = {
        "dominates": "dominated", "dominated": "dominates",
        "trade-off": "trade-off", "same": "same",
    }  # fmt: skip
    for (quality, sparsity), said in CELLS.items():
        assert standing(OPPOSITE[quality], OPPOSITE[sparsity]) == back[said]
        assert standing(sparsity, quality) == said


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
        # Not below alpha is not found; at it neither.
        ("kl", 0.1, 0.2, 0.01, "same"),
        ("kl", 0.1, 0.2, math.nextafter(0.01, 0), "worse"),
        # Numeric noise is no move, whatever its p; what does not vary has p 0.
        ("kl", 0.1, 0.1 * (1 + 0.9e-5), 0.0, "same"),
        ("kl", 0.1, 0.1 * (1 + 1.1e-5), 0.0, "worse"),
        ("l0", 16.0, 16.0, 1.0, "same"),
        # Nobody knows, or no way is better.
        ("kl", 0.1, 0.2, None, None),
        ("kl", 0.1, 0.2, math.nan, None),
        ("kl", 0.1, math.nan, 0.0, None),
        ("reconstruction_score", 0.1, math.nan, 0.0, None),
        ("reconstruction_score", 0.1, math.inf, 0.0, None),
        ("kl", math.nan, 0.1, math.nan, None),
        ("l2_ratio", 0.9, 0.8, 0.0, None),
    ],
)
def test_what_became_of_a_metric(
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
def test_a_margin_is_a_share_of_what_it_was(
    name: str, before: float, inside: float, outside: float
) -> None:
    def found(after: float) -> Outcome | None:
        return outcome(METRICS[name], before, after, 0.0, alpha=0.01, margin=0.01)

    assert (found(before), found(inside)) == ("same", "same")
    assert found(outside) in ("better", "worse")
    # Without one, both are moves.
    assert outcome(METRICS[name], before, inside, 0.0, alpha=0.01) == found(outside)


positive = st.floats(1e-3, 1e3)


@given(positive, positive, st.floats(0, 1), st.floats(1e-4, 0.4))
def test_the_way_back_is_the_opposite(before: float, after: float, p: float, alpha: float) -> None:
    there = outcome(METRICS["kl"], before, after, p, alpha=alpha)
    back = outcome(METRICS["kl"], after, before, p, alpha=alpha)
    assert there is not None
    assert back == OPPOSITE[there]
