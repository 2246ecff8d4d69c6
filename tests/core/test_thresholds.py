"""Thresholds that say nothing are refused, or allow nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.testing import measurements


@given(measurements(), st.floats(-20, 20))
def test_a_nan_bound_allows_nothing(m: Measurement, value: float) -> None:
    assert not Threshold("kl", max=math.nan).allows(value)
    assert not Threshold("kl", min=math.nan).allows(value)
    assert judge(m, Threshold("kl", max=math.nan)).status == "fail"


def test_a_threshold_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot fail"):
        Threshold("kl")


@pytest.mark.parametrize("confidence", [0.5, 1.0, 99.0, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence is .*, allowed: above 0.5 and below 1"):
        Threshold("kl", max=0.1, confidence=confidence)
