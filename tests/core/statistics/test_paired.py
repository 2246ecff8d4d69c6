"""Paired differences of ratios against textbook special cases, the jackknife and resampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from sae_guard.core.statistics import ratio
from sae_guard.core.statistics.paired import Move, Sums, move, variance_ratio
from sae_guard.errors import UndefinedMetricError

Array = NDArray[np.float64]
finite = st.floats(-1e3, 1e3)


def sums(numerator: Array, denominator: Array) -> Sums:
    return Sums(numerator, denominator, ratio(numerator, denominator))


def two_versions(seed: int, n: int = 400, *, worse: float = 1.1) -> tuple[Sums, Sums]:
    """Two SAEs on the same texts: what they do to a text is alike, and so is its length."""
    rng = np.random.default_rng(seed)
    tokens, text = rng.uniform(50, 130, n), rng.normal(0, 0.4, n)
    a, b = (tokens * np.exp(text + rng.normal(0, 0.12, n)) * f for f in (1.0, worse))
    return sums(a, tokens), sums(b, tokens)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20), st.floats(0.6, 0.999))
def test_with_constant_denominators_it_is_the_paired_t_test(
    rows: list[tuple[float, float]], confidence: float
) -> None:
    a, b = (np.array(column) for column in zip(*rows, strict=True))
    assume(float(np.std(b - a)) > 1e-6)
    result = move(sums(a, np.ones_like(a)), sums(b, np.ones_like(b)), confidence=confidence)
    expected = stats.ttest_rel(b, a)
    interval = expected.confidence_interval(confidence)
    assert result.value == pytest.approx(float(np.mean(b - a)), rel=1e-9, abs=1e-9)
    assert result.p_value == pytest.approx(float(expected.pvalue), rel=1e-6, abs=1e-12)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


@pytest.mark.parametrize("share", [False, True])
def test_the_standard_error_agrees_with_the_jackknife(share: bool) -> None:
    before, after = two_versions(0)
    result = move(before, after, share=share)

    def without(row: int) -> float:
        a, b = (
            np.delete(s.numerator, row).sum() / np.delete(s.denominator, row).sum()
            for s in (before, after)
        )
        return float(b / a - 1 if share else b - a)

    left_out = np.array([without(row) for row in range(400)])
    jackknife = math.sqrt(399 / 400 * ((left_out - left_out.mean()) ** 2).sum())
    assert result.high is not None
    half = result.high - result.value
    assert half / stats.t.ppf(0.975, 399) == pytest.approx(jackknife, rel=0.01)


def test_pairing_cancels_the_variance_shared_by_a_text() -> None:
    before, after = two_versions(1, worse=1.03)
    paired = move(before, after)
    assert paired.low is not None
    assert paired.p_value is not None
    apart = math.hypot(*(_standard_error(s) for s in (before, after)))
    assert paired.p_value < 1e-3
    assert abs(paired.value) / apart < 2  # which unpaired intervals would not tell
    assert (apart / ((paired.value - paired.low) / stats.t.ppf(0.975, 399))) ** 2 > 4


def _standard_error(of: Sums) -> float:
    return float(np.sqrt(np.sum(of.influence**2)))


@pytest.mark.parametrize("share", [False, True])
def test_the_interval_has_its_nominal_coverage(share: bool) -> None:
    hits, significant = 0, 0
    for seed in range(1500):
        result = move(*two_versions(seed, 64, worse=1.0), share=share)
        assert result.low is not None
        assert result.high is not None
        assert result.p_value is not None
        hits += result.low <= 0 <= result.high
        significant += result.p_value < 0.05
    assert 0.935 <= hits / 1500 <= 0.965
    assert 0.035 <= significant / 1500 <= 0.065


def test_row_order_and_scale_do_not_matter_and_reversal_negates() -> None:
    before, after = two_versions(2)
    result = move(before, after)
    rng = np.random.default_rng(3)
    order = rng.permutation(400)
    same: dict[str, Callable[[Array], Array]] = {
        "order": lambda column: column[order],
        "denominators": lambda column: column * 7.0,
    }
    for name, changed in same.items():
        a, b = (sums(changed(s.numerator), changed(s.denominator)) for s in (before, after))
        assert _numbers(move(a, b)) == pytest.approx(_numbers(result), rel=1e-9), name
    back = move(after, before)
    assert result.low is not None
    assert result.high is not None
    assert _numbers(back) == pytest.approx(
        (-result.value, -result.high, -result.low, result.p_value)
    )


def _numbers(result: Move) -> tuple[float | None, ...]:
    return result.value, result.low, result.high, result.p_value


def test_equal_measurements_have_p_value_one_and_width_zero() -> None:
    before, _ = two_versions(4)
    assert move(before, before) == Move(0.0, 0.0, 0.0, 1.0)
    all_alike = sums(before.numerator + before.denominator, before.denominator)
    assert move(before, all_alike).value == pytest.approx(1.0)
    one = sums(np.array([2.0]), np.array([1.0]))
    assert move(one, one) == Move(0.0, None, None, None)


def test_the_variance_ratio_is_the_gain_of_pairing() -> None:
    before, after = two_versions(6, 4000)
    assert variance_ratio(before, before) is None
    assert variance_ratio(*(sums(np.ones(1), np.ones(1)) for _ in range(2))) is None
    result = variance_ratio(before, after)
    assert result is not None
    means = [s.numerator - s.value * s.denominator for s in (before, after)]
    assert result == pytest.approx(
        (np.var(means[0]) + np.var(means[1])) / np.var(means[1] - means[0]), rel=1e-6
    )
    strangers = variance_ratio(before, two_versions(7, 4000)[1])
    assert strangers == pytest.approx(1, abs=0.05)
    # Its root is the ratio of the widths: √(se₁² + se₂²) apart, and what `move` says paired.
    paired = move(before, after)
    assert paired.high is not None
    half = (paired.high - paired.value) / stats.t.ppf(0.975, 3999)
    apart = math.hypot(*(_standard_error(s) for s in (before, after)))
    assert result**0.5 == pytest.approx(apart / half, rel=1e-3)


def test_a_share_of_zero_and_unequal_rows_are_refused() -> None:
    before, after = two_versions(5)
    nothing = sums(np.zeros(400), before.denominator)
    with pytest.raises(
        UndefinedMetricError, match="it was 0; a relative change needs a value above 0"
    ):
        move(nothing, after, share=True)
    with pytest.raises(ValueError, match="400 rows before, 3 after"):
        move(before, sums(np.ones(3), np.ones(3)))
