"""Metrics equal slow definitions, have their invariances, and are undefined where they must be."""

from __future__ import annotations

import dataclasses
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.errors import SetupError, UndefinedMetricError
from sae_guard.testing import measurements
from tests.helpers import naive
from tests.helpers.changed_measurements import changed

RATIOS = [name for name, metric in METRICS.items() if metric.firing_above is None]


def slow_value(m: Measurement, name: str) -> float:
    """The metric's definition, written out a second time over Python floats."""
    return naive.ratios({column: math.fsum(values) for column, values in m.sums.items()})[name]


@given(measurements(), st.sampled_from(RATIOS))
def test_every_ratio_metric_equals_its_slow_definition(m: Measurement, name: str) -> None:
    assert m[name] == pytest.approx(slow_value(m, name), rel=1e-9, abs=1e-9)


@given(measurements(min_sequences=2), st.sampled_from(RATIOS), st.randoms())
def test_no_metric_depends_on_row_order(m: Measurement, name: str, random: Random) -> None:
    order = list(range(m.n_sequences))
    random.shuffle(order)
    shuffled = changed(m, **{column: values[order] for column, values in m.sums.items()})
    assert shuffled[name] == pytest.approx(m[name], rel=1e-9, abs=1e-9)


@given(measurements())
def test_score_is_one_without_harm_and_zero_when_as_bad_as_the_ablation(m: Measurement) -> None:
    for name, ablated in (
        ("reconstruction_score", "ce_zero"),
        ("reconstruction_score[mean]", "ce_mean"),
    ):
        assert changed(m, ce_patched=m.sums["ce_clean"])[name] == 1
        assert changed(m, ce_patched=m.sums[ablated])[name] == 0


@given(measurements(), st.floats(-50, 50))
def test_score_ignores_a_constant_added_to_all_losses(m: Measurement, constant: float) -> None:
    shifted = {
        name: m.sums[name] + constant * m.sums["n_tokens"]
        for name in ("ce_clean", "ce_patched", "ce_zero", "ce_mean")
    }
    assert changed(m, **shifted)["reconstruction_score"] == pytest.approx(
        m["reconstruction_score"], rel=1e-6, abs=1e-6
    )


@given(measurements(), st.floats(-1, 1e-3))
def test_score_is_undefined_where_the_ablation_does_no_harm(m: Measurement, harm: float) -> None:
    harmless = changed(m, ce_zero=m.sums["ce_clean"] + harm * 0.99 * m.sums["n_tokens"])
    with pytest.raises(UndefinedMetricError, match=r"reconstruction_score .* denominator is"):
        harmless["reconstruction_score"]


@given(measurements())
def test_explained_variance_is_zero_for_the_mean_and_one_for_the_identity(m: Measurement) -> None:
    assert changed(m, sq_error=m.sums["sq_deviation"])["explained_variance"] == 0
    assert changed(m, sq_error=np.zeros(m.n_sequences))["explained_variance"] == 1


@given(measurements(), st.floats(1e-3, 1e3))
def test_explained_variance_is_scale_invariant(m: Measurement, scale: float) -> None:
    scaled = changed(
        m,
        sq_error=m.sums["sq_error"] * scale**2,
        sq_deviation=m.sums["sq_deviation"] * scale**2,
    )
    assert scaled["explained_variance"] == pytest.approx(m["explained_variance"], abs=1e-9)


@given(measurements())
def test_raw_loss_increase_is_not_kl(m: Measurement) -> None:
    """The two columns are independent: one may be zero while the other is not."""
    same_loss = changed(m, ce_patched=m.sums["ce_clean"], kl=m.sums["n_tokens"])
    assert same_loss["ce_increase"] == 0
    assert same_loss["kl"] == 1


@given(measurements(), st.sampled_from(RATIOS), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_number_that_is_not_finite_makes_the_metric_undefined(
    m: Measurement, name: str, bad: float
) -> None:
    metric = METRICS[name]
    for column in {*metric.numerator, *metric.denominator}:
        broken = m.sums[column].copy()
        broken[-1] = bad
        with pytest.raises(UndefinedMetricError):
            changed(m, **{column: broken})[name]


@given(measurements(), st.sampled_from(sorted(METRICS)))
def test_no_scored_token_makes_every_metric_undefined(m: Measurement, name: str) -> None:
    with pytest.raises(UndefinedMetricError):
        changed(m, **{column: np.zeros(m.n_sequences) for column in m.sums})[name]


def many_tokens(m: Measurement, tokens: int) -> Measurement:
    n = np.full(m.n_sequences, tokens / m.n_sequences)
    return changed(m, n_tokens=n)


@given(measurements())
def test_dead_and_dense_shares_count_latents_by_how_often_they_fire(m: Measurement) -> None:
    tokens = 10_000 * m.n_sequences
    m = dataclasses.replace(
        many_tokens(m, tokens),
        firings=np.array([0, 1, tokens // 10, tokens // 10 + 1, tokens], dtype=np.int64),
    )
    assert m["dead_latents"] == 0.2
    assert m["dense_latents"] == 0.4  # exactly 10 % is not more than 10 %


@given(measurements())
def test_dead_share_is_refused_below_its_token_budget(m: Measurement) -> None:
    with pytest.raises(UndefinedMetricError, match="needs 10,000 scored tokens, 9,600 were"):
        many_tokens(m, 9_600)["dead_latents"]


@given(measurements())
def test_latent_shares_of_latents_that_are_not_finite_are_undefined(m: Measurement) -> None:
    broken = changed(many_tokens(m, 60_000), l1=np.full(m.n_sequences, math.nan))
    with pytest.raises(UndefinedMetricError, match="latents are not finite"):
        broken["dead_latents"]


@given(measurements())
def test_an_unknown_metric_is_refused_with_its_nearest_name(m: Measurement) -> None:
    with pytest.raises(SetupError, match=r"unknown metric 'reconstruction_scor'; did you mean rec"):
        m["reconstruction_scor"]
