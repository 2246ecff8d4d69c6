"""The number of latents that calibrates is found, where there is one."""

from __future__ import annotations

import math

import pytest

from sae_guard.examination.selection import solved


@pytest.mark.parametrize("truth", [0.03, 0.5, 1.0, 1.3, 6.0, 40.0])
def test_the_number_of_latents_that_calibrates_is_found(truth: float) -> None:
    asked = []

    def factor(amount: float) -> float:
        asked.append(amount)
        return math.pow(truth / amount, 0.2)

    found = solved(factor, highest=64.0)
    assert found is not None
    assert 1 / 1.15 < found / truth < 1.15
    assert len(asked) < 16


def test_where_no_number_of_latents_calibrates_there_is_none() -> None:
    assert solved(lambda amount: 0.5, highest=64.0) is None
    assert solved(lambda amount: math.nan, highest=64.0) is None
    assert solved(lambda amount: 2.0, highest=1.0) is None
