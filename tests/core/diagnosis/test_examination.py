"""`Examination.sound` accepts the numbers that training leaves, and no others."""

from __future__ import annotations

import math

import pytest

from tests.helpers.examinations import examined, fit


@pytest.mark.parametrize(
    ("architecture", "factor", "sound"),
    [
        ("topk", 0.959, False), ("topk", 1.051, False), ("jumprelu", 1.2, False),
        ("standard", 0.959, False), ("standard", 1.6, True), ("standard", 1.61, False),
        ("topk", math.nan, False), ("standard", math.nan, False), ("topk", math.inf, False),
    ],
)  # fmt: skip
def test_factors_that_training_leaves(architecture: str, factor: float, sound: bool) -> None:
    assert examined(architecture=architecture, loaded=fit(factor=factor)).sound is sound


def test_constant_error_and_error_along_ones_are_not_sound() -> None:
    assert not examined(loaded=fit(constant=0.031)).sound
    assert not examined(loaded=fit(constant=math.nan)).sound
    assert not examined(ones_in_error=0.21).sound
    assert examined(loaded=fit(factor=0.5), reconstructs=False).sound
