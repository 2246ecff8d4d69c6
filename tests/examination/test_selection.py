"""The search finds the number of active latents at which the factor is 1, if there is one."""

from __future__ import annotations

import math

import pytest

from sae_guard.examination.selection import find_calibrated_multiple


@pytest.mark.parametrize("truth", [0.03, 0.5, 1.0, 1.3, 6.0, 40.0])
def test_the_calibrated_multiple_is_found_in_few_steps(truth: float) -> None:
    multiples = []

    def factor(multiple: float) -> float:
        multiples.append(multiple)
        return math.pow(truth / multiple, 0.2)

    result = find_calibrated_multiple(factor, highest=64.0)
    assert result is not None
    assert 1 / 1.15 < result / truth < 1.15
    assert len(multiples) < 16


def test_there_is_no_result_where_no_multiple_calibrates() -> None:
    assert find_calibrated_multiple(lambda multiple: 0.5, highest=64.0) is None
    assert find_calibrated_multiple(lambda multiple: math.nan, highest=64.0) is None
    assert find_calibrated_multiple(lambda multiple: 2.0, highest=1.0) is None
