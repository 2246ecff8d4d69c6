"""Thresholds without an effect or on an impossible target are refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.targets import Slice, Target
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.errors import SetupError
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
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence is .*, allowed: above 0.5 and below 1"):
        Threshold("kl", max=0.1, confidence=confidence)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("kl", Target("kl")),
        ("kl.p99", Target("kl", "p99")),
        ("kl.change", Target("kl", change=True)),
        ("kl.p99.change@source=a@b", Target("kl", "p99", Slice("source", glob="a@b"), change=True)),
    ],
)
def test_a_target_can_be_passed_as_text(text: str, target: Target) -> None:
    threshold = Threshold(text, max=0.1)
    assert threshold.target == target
    assert threshold == Threshold(target, max=0.1)
    assert hash(threshold) == hash(Threshold(target, max=0.1))
    assert replace(threshold, max=0.2) == Threshold(target, max=0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl.median", "threshold on kl.median: no statistic 'median'; allowed: mean, p50"),
        ("kl.p0.change", "threshold on kl.p0.change: no statistic 'p0'"),
        ("l0.worst_sequence", "l0 has no worst sequence: it is bounded on both sides"),
        ("fvu@position=0..8", "threshold on fvu@position=0..8: fvu needs the mean activation"),
        ("kl@colour=1..2", "no slice 'colour=1..2'"),
    ],
)
def test_a_threshold_on_an_impossible_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Threshold(text, max=1.0)


@pytest.mark.parametrize("text", ["kll", "kll.p99", "kll.change@position=0..8", ""])
def test_a_threshold_on_an_unknown_metric_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="unknown metric"):
        Threshold(text, max=1.0)


@pytest.mark.parametrize("text", ["kl", "kl.p99", "kl@entropy=2.."])
def test_relative_is_refused_without_a_change(text: str) -> None:
    with pytest.raises(ValueError, match=f"threshold on {text} is relative.*only on a change"):
        Threshold(text, max=0.1, relative=True)
    target = Target.parse(text)
    with pytest.raises(ValueError, match=r"is relative.*only on a change"):
        replace(Threshold(replace(target, change=True), max=0.1, relative=True), target=target)


def test_change_is_a_difference_or_a_share() -> None:
    assert Threshold("kl", max=0.1).change == ""
    assert Threshold("kl.change", max=0.1).change == "difference"
    assert Threshold("kl.change", max=0.1, relative=True).change == "share"
