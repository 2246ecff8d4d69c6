"""Verdicts on the boundary, monotone in the bound, and closed under NaN."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.testing import measurements, thresholds

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
    upper = Threshold("kl", max=0.2, warn_max=0.1)
    assert judge(measured(m, 0.1), upper).status == "pass"
    assert judge(measured(m, math.nextafter(0.1, 1)), upper).status == "warn"
    lower = Threshold("kl", min=0.2, warn_min=0.3)
    assert judge(measured(m, 0.3), lower).status == "pass"
    assert judge(measured(m, math.nextafter(0.3, 0)), lower).status == "warn"


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


confidences = st.sampled_from([0.6, 0.9, 0.95, 0.99, 0.999])


@given(measurements(), st.sampled_from(RATIOS), st.data(), confidences, confidences)
def test_confidence_never_reverses_a_verdict(
    m: Measurement, name: str, data: st.DataObject, one: float, other: float
) -> None:
    threshold = data.draw(thresholds(name))
    plain = judge(m, threshold)
    low, high = (
        judge(m, dataclasses.replace(threshold, confidence=confidence)).status
        for confidence in sorted((one, other))
    )
    for status in (low, high):
        assert status in (plain.status, "undecided")
    assert high in (low, "undecided")


@given(measurements(min_sequences=2), st.sampled_from(RATIOS), st.data(), confidences)
def test_a_confident_verdict_holds_for_both_ends_of_the_interval(
    m: Measurement, name: str, data: st.DataObject, confidence: float
) -> None:
    threshold = dataclasses.replace(data.draw(thresholds(name)), confidence=confidence)
    verdict, interval = judge(m, threshold), m.estimate(name, confidence=confidence)
    assert interval.low is not None
    assert interval.high is not None
    ends = [threshold.allows(interval.low), threshold.allows(interval.high)]
    if verdict.status == "undecided":
        assert not all(ends)
        assert "sequences" in verdict.message
    else:
        assert all(ends) == (verdict.status in ("pass", "warn"))
        assert any(ends) == (verdict.status in ("pass", "warn"))


def spread(m: Measurement, kl: list[float]) -> Measurement:
    """One token per sequence, with this KL."""
    n = len(kl)
    sums = {name: np.ones(n) for name in m.sums}
    corpus = {**m.provenance.corpus, "n_sequences": n}
    return dataclasses.replace(
        m,
        sequences=np.arange(n),
        sums={**sums, "kl": np.array(kl)},
        provenance=dataclasses.replace(m.provenance, corpus=corpus),
    )


@given(measurements(max_sequences=1))
def test_an_undecided_verdict_states_the_sequences_needed(m: Measurement) -> None:
    few = spread(m, [0.1, 0.2, 0.3, 0.4] * 4)
    verdict = judge(few, Threshold("kl", max=0.28, confidence=0.99))
    assert verdict.status == "undecided"
    # 2.947 · 0.1155 / √16 = 0.0851 has to shrink to the headroom of 0.03.
    assert "0.1649 to 0.3351 holds the bound 0.28 with 16 sequences" in verdict.message
    assert "about 129 would do" in verdict.message
    more = spread(m, [0.1, 0.2, 0.3, 0.4] * 33)
    assert judge(more, Threshold("kl", max=0.28, confidence=0.99)).status == "pass"
    at = judge(few, Threshold("kl", max=0.25, confidence=0.99))
    assert "no number of them would do" in at.message
    one = judge(spread(m, [0.1]), Threshold("kl", max=0.28, confidence=0.99))
    assert "the 0.99 interval is undefined on 1 sequences" in one.message


@given(measurements(max_sequences=1))
def test_a_verdict_is_marginal_near_its_bound(m: Measurement) -> None:
    few = spread(m, [0.1, 0.2, 0.3, 0.4] * 4)
    for bound, marginal in [
        (0.25, "within numeric noise"),
        (0.250001, "within numeric noise"),
        (0.28, "inside the 95% interval"),
        (0.22, "inside the 95% interval"),
        (0.4, ""),
        (0.1, ""),
    ]:
        assert judge(few, Threshold("kl", max=bound)).marginal == marginal
