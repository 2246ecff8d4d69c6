"""Verdicts on the boundary, monotone in the bound, and closed under NaN."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.measurement import Measurement
from sae_guard.metrics.table import METRICS
from sae_guard.testing import measurements, thresholds
from sae_guard.verdicts import Threshold, judge

RATIOS = [name for name, metric in METRICS.items() if metric.firing_above is None]


def measured(m: Measurement, kl: float) -> Measurement:
    """A measurement whose KL is exactly ``kl``: one token per sequence, the same in each."""
    sums = {**m.sums, "kl": np.full(m.n_sequences, kl), "n_tokens": np.ones(m.n_sequences)}
    return dataclasses.replace(m, sums=sums)


@given(measurements(max_sequences=1))
def test_the_bound_itself_passes_and_the_next_float_fails(m: Measurement) -> None:
    bound = 0.2
    for value, status in [
        (bound, "pass"),
        (math.nextafter(bound, 0), "pass"),
        (math.nextafter(bound, 1), "fail"),
    ]:
        assert judge(measured(m, value), Threshold("kl", max=bound)).status == status
    for value, status in [
        (bound, "pass"),
        (math.nextafter(bound, 1), "pass"),
        (math.nextafter(bound, 0), "fail"),
    ]:
        assert judge(measured(m, value), Threshold("kl", min=bound)).status == status


@given(measurements(max_sequences=1))
def test_the_warn_bound_itself_is_quiet_and_the_next_float_warns(m: Measurement) -> None:
    above = Threshold("kl", max=0.2, warn_max=0.1)
    assert judge(measured(m, 0.1), above).status == "pass"
    assert judge(measured(m, math.nextafter(0.1, 1)), above).status == "warn"
    below = Threshold("kl", min=0.2, warn_min=0.3)
    assert judge(measured(m, 0.3), below).status == "pass"
    assert judge(measured(m, math.nextafter(0.3, 0)), below).status == "warn"


@given(measurements(), st.sampled_from(["kl", "l0", "cosine"]),
       st.sampled_from([math.nan, math.inf, -math.inf]))  # fmt: skip
def test_nothing_that_is_not_finite_passes(m: Measurement, name: str, bad: float) -> None:
    column = m.sums[name].copy()
    column[0] = bad
    broken = dataclasses.replace(m, sums={**m.sums, name: column})
    for threshold in (Threshold(name, max=math.inf), Threshold(name, min=-math.inf)):
        verdict = judge(broken, threshold)
        assert verdict.status == "error"
        assert verdict.cause == "load"  # only what the SAE produced is broken
        assert name in verdict.message


@given(measurements(), st.floats(-20, 20))
def test_a_nan_bound_allows_nothing(m: Measurement, value: float) -> None:
    assert not Threshold("kl", max=math.nan).allows(value)
    assert not Threshold("kl", min=math.nan).allows(value)
    assert judge(m, Threshold("kl", max=math.nan)).status == "fail"


@given(measurements())
def test_a_broken_clean_run_is_an_error_of_the_setup(m: Measurement) -> None:
    sums = {**m.sums, "ce_clean": np.full(m.n_sequences, math.nan)}
    verdict = judge(dataclasses.replace(m, sums=sums), Threshold("ce_increase", max=1.0))
    assert (verdict.status, verdict.cause) == ("error", "setup")


@given(measurements(), st.sampled_from(RATIOS), st.data(), st.floats(0, 5))
def test_loosening_a_bound_never_turns_a_pass_into_a_fail(
    m: Measurement, name: str, data: st.DataObject, slack: float
) -> None:
    strict = data.draw(thresholds(name))
    loose = dataclasses.replace(
        strict,
        max=None if strict.max is None else strict.max + slack,
        min=None if strict.min is None else strict.min - slack,
    )
    if judge(m, strict).status == "pass":
        assert judge(m, loose).status == "pass"


@given(measurements(), st.sampled_from(RATIOS), st.data())
def test_headroom_is_negative_exactly_where_the_threshold_fails(
    m: Measurement, name: str, data: st.DataObject
) -> None:
    threshold = data.draw(thresholds(name))
    verdict = judge(m, threshold)
    assert verdict.estimate is not None
    assert (threshold.headroom(verdict.estimate.value) < 0) == (verdict.status == "fail")


def test_a_threshold_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot fail"):
        Threshold("kl")
