"""Ratios and intervals against textbook special cases and resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sae_guard.core.statistics import Estimate, ratio, ratio_interval, rescaled
from sae_guard.errors import UndefinedMetricError

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=2, max_size=20))
def test_with_constant_denominators_it_is_students_interval_of_a_mean(xs: list[float]) -> None:
    x, one = np.array(xs), np.ones(len(xs))
    value = ratio(x, one)
    interval = ratio_interval(x, one, value)
    assert interval is not None
    half = stats.t.ppf(0.975, len(xs) - 1) * x.std(ddof=1) / math.sqrt(len(xs))
    assert value == pytest.approx(x.mean(), rel=1e-9, abs=1e-9)
    assert interval == pytest.approx((value - half, value + half), rel=1e-6, abs=1e-6)


def test_the_standard_error_agrees_with_the_jackknife() -> None:
    rng = np.random.default_rng(0)
    den = rng.uniform(50, 130, 400)
    num = den * rng.lognormal(0, 0.4, 400)
    interval = ratio_interval(num, den, ratio(num, den))
    assert interval is not None
    left_out = np.array([(num.sum() - a) / (den.sum() - b) for a, b in zip(num, den, strict=True)])
    jackknife = math.sqrt(399 / 400 * ((left_out - left_out.mean()) ** 2).sum())
    half = (interval[1] - interval[0]) / 2
    assert half / stats.t.ppf(0.975, 399) == pytest.approx(jackknife, rel=0.01)


def test_the_interval_has_its_nominal_coverage() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        den = rng.uniform(50, 130, 64)
        num = den * rng.lognormal(-0.08, 0.4, 64)  # mean exp(−0.08 + 0.08) = 1
        low, high = ratio_interval(num, den, ratio(num, den)) or (math.nan, math.nan)
        hits += low <= 1 <= high
    assert 0.93 <= hits / 2000 <= 0.965


@given(st.floats(0.6, 0.999), st.floats(0.6, 0.999), st.integers(2, 40))
def test_a_rescaled_interval_equals_one_at_the_new_confidence(
    old: float, new: float, n: int
) -> None:
    rng = np.random.default_rng(n)
    num, den = rng.uniform(1, 2, n), rng.uniform(1, 2, n)
    value = ratio(num, den)
    low, high = ratio_interval(num, den, value, confidence=old) or (math.nan, math.nan)
    interval = rescaled(Estimate(value, low, high, 0, n, old), new)
    assert interval == pytest.approx(ratio_interval(num, den, value, confidence=new))
    assert rescaled(Estimate(value, None, None, 0, 1, old), new) is None


def test_one_sequence_has_no_interval() -> None:
    assert ratio_interval(np.array([1.0]), np.array([2.0]), 0.5) is None


@given(st.permutations(list(np.geomspace(1e-12, 1e12, 9))))
def test_the_ratio_does_not_depend_on_the_order_of_the_rows(xs: list[float]) -> None:
    assert ratio(np.array(xs), np.ones(9)) == ratio(np.sort(np.array(xs)), np.ones(9))


@pytest.mark.parametrize(
    ("num", "den"),
    [([1.0], [0.0]), ([1.0], [-1.0]), ([math.nan], [1.0]), ([1.0], [math.nan]),
     ([math.inf], [1.0]), ([math.inf, -math.inf], [1.0, 1.0]), ([], []),
     ([1e308, 1e308], [1.0, 1.0])],
)  # fmt: skip
def test_zero_and_non_finite_sums_have_no_ratio(num: list[float], den: list[float]) -> None:
    with pytest.raises(UndefinedMetricError):
        ratio(np.array(num), np.array(den))


def test_a_denominator_at_the_floor_is_refused() -> None:
    with pytest.raises(UndefinedMetricError, match=r"not above 0\.5"):
        ratio(np.array([1.0]), np.array([0.5]), floor=0.5)
    assert ratio(np.array([1.0]), np.array([math.nextafter(0.5, 1)]), floor=0.5) > 0


def test_overflowing_squares_give_no_interval() -> None:
    huge, one = np.array([1e200, -1e200, 3e200]), np.ones(3)
    assert ratio_interval(huge, one, ratio(huge, one)) is None
