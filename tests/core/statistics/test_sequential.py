"""The sequential test: its published boundary, its error rate, and when it never decides."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from sae_guard.core.statistics.sequential import Rule, above_zero, evidence_of_moments, log_evidence

RULE = Rule(alpha=0.05)
samples = st.tuples(st.integers(0, 2**32 - 1), st.integers(3, 100)).map(
    lambda drawn: np.random.default_rng(drawn[0]).gamma(2.0, size=drawn[1]) - 1.5
)


def symmetric(mean: float, n: int) -> NDArray[np.float64]:
    """Return n values without skewness, with this mean and standard deviation 1 (divisor n − 1)."""
    half = math.sqrt((n - 1) / n)
    return mean + np.repeat([half, -half], n // 2)


@pytest.mark.parametrize(("n", "z"), [(64, 4.03), (960, 4.54)])
def test_the_boundary_is_that_of_the_simulated_design(n: int, z: float) -> None:
    """The boundary is in units of a normal statistic, for α = 0.001 and 1,024 sequences."""
    rule, total = Rule(alpha=1e-3, minimum=64), 1024

    def over(mean: float) -> float:
        return float(log_evidence(symmetric(mean, n), total, rule=rule)) + math.log(rule.alpha)

    mean = brentq(over, 1e-6, 10)
    statistic = mean * math.sqrt(n / (1 - n / total))
    assert norm.isf(t.sf(statistic, n - 1)) == pytest.approx(z, abs=0.006)


@given(samples, st.floats(1e-3, 1e3))
def test_scale_and_order_do_not_matter(g: NDArray[np.float64], scale: float) -> None:
    evidence = partial(log_evidence, total=200, rule=RULE)
    np.testing.assert_allclose(evidence(scale * g), evidence(g), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(evidence(g[::-1]), evidence(g), rtol=1e-6, atol=1e-6)


@given(samples, st.floats(0, 3))
def test_evidence_grows_with_the_mean(g: NDArray[np.float64], more: float) -> None:
    before, after = (log_evidence(x, 200, rule=RULE) for x in (g, g + more))
    assert after >= before - 1e-9


@given(samples)
def test_evidence_of_moments_omits_the_skewness(g: NDArray[np.float64]) -> None:
    mirrored = np.concatenate([g, 2 * g.mean() - g])  # of the same mean, and none
    by_moments = evidence_of_moments(
        mirrored.sum(), (mirrored**2).sum(), len(mirrored), 500, rule=RULE
    )
    np.testing.assert_allclose(
        by_moments, log_evidence(mirrored, 500, rule=RULE), rtol=1e-6, atol=1e-6
    )


@given(st.lists(samples, min_size=1, max_size=3))
def test_a_batch_of_sets_equals_one_set_at_a_time(drawn: list[NDArray[np.float64]]) -> None:
    n = min(map(len, drawn))
    sets = np.stack([g[:n] for g in drawn])
    batch = log_evidence(sets, 200, rule=RULE)
    one_by_one = [float(log_evidence(g, 200, rule=RULE)) for g in sets]
    np.testing.assert_allclose(batch, one_by_one, rtol=1e-9)


def test_nothing_is_decided_below_the_minimum_or_on_the_full_set() -> None:
    certain = symmetric(1e3, 62)
    ask = partial(above_zero, alpha=0.001, rule=Rule(0.001, minimum=64))
    assert not ask(certain, 1000)
    longer = symmetric(1e3, 64)
    assert ask(longer, 1000)
    assert not ask(longer, 64)  # the whole set: there the sum itself tells


def test_values_that_are_not_finite_are_never_above_zero() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        g = symmetric(10, 100)
        g[3] = bad
        for sign in (1, -1):
            assert not above_zero(sign * g, 1000, alpha=0.01, rule=RULE)


def test_without_variance_a_nonzero_mean_is_certain() -> None:
    for value, expected in ((0.5, True), (-0.5, False), (0.0, False)):
        assert bool(above_zero(np.full(80, value), 1000, alpha=1e-9, rule=RULE)) is expected


def test_an_unseen_worst_sequence_delays_the_decision() -> None:
    g = symmetric(1.0, 100)
    ask = partial(above_zero, g, 1000, alpha=0.001, rule=RULE)
    assert ask()
    assert ask(unseen=-1.0)
    assert not ask(unseen=-200.0)


def test_the_error_rate_is_at_most_alpha() -> None:
    """Simulate 2,000 sets with Σ g = 0, the worst case: skewed values, many looks."""
    generator = np.random.default_rng(0)
    rule, total = Rule(alpha=0.02), 256
    g = generator.lognormal(sigma=0.6, size=(2000, total))
    g -= g.mean(axis=1, keepdims=True)  # Σ g = 0: every decision is wrong
    for sign in (1, -1):
        decided = np.zeros(len(g), dtype=np.bool_)
        for n in range(64, total, 16):
            decided |= above_zero(sign * g[:, :n], total, alpha=rule.alpha, rule=rule)
        limit = rule.alpha + 3 * math.sqrt(rule.alpha / len(g))
        assert decided.mean() <= limit


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", 0.0), ("alpha", 0.5), ("alpha", math.nan), ("minimum", 1)]
)
def test_a_rule_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is"):
        Rule(**{field: value})  # type: ignore[arg-type]
