"""Verdicts on changes since a baseline: on the boundary, by intervals, never a silent pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sae_guard.core.comparison import Baseline, change
from sae_guard.core.early_verdicts import early_verdict
from sae_guard.core.measurement import Measurement
from sae_guard.core.statistics.sequential import Rule
from sae_guard.core.targets import Slice, Target
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge
from sae_guard.testing import measurements
from tests.helpers.changed_measurements import OTHERS, with_provenance, worse
from tests.helpers.recorded import ordinary


@given(
    measurements(min_sequences=2), st.floats(0.5, 2), st.floats(0, 0.5),
    st.booleans(),
)  # fmt: skip
def test_a_verdict_passes_iff_the_change_is_within_the_bound(
    before: Measurement, times: float, bound: float, relative: bool
) -> None:
    assume(before["kl"] > 1e-6)
    after = worse(before, times)
    difference = after["kl"] - before["kl"]
    limit = bound * before["kl"] if relative else bound
    assume(abs(difference - limit) > 1e-9 * max(limit, 1e-3))
    threshold = Threshold("kl.change", max=bound, relative=relative)
    verdict = judge(after, threshold, Baseline("v1", before))
    assert verdict.status == ("pass" if difference <= limit else "fail")
    assert verdict.change is not None
    assert (verdict.change.before, verdict.change.after) == (before["kl"], after["kl"])


def test_a_min_bounds_a_decrease() -> None:
    before = ordinary()
    sums = {**before.sums, "ce_patched": before.sums["ce_patched"] + 8.0}
    after = replace(before, sums=sums)  # of 8 nats of ablation's harm, 0.08 are done
    for amount, status in ((0.02, "pass"), (0.005, "fail")):
        threshold = Threshold("reconstruction_score.change", min=-amount)
        assert judge(after, threshold, Baseline("v1", before)).status == status


def test_confidence_needs_the_paired_interval_clear_of_the_bound() -> None:
    before, after = ordinary(), worse(ordinary(), 1.02)
    baseline = Baseline("v1", before)
    paired, _ = change(baseline, after, Target("kl", change=True), relative=True, confidence=0.99)
    assert paired.low is not None
    assert paired.high is not None
    for bound, status in (
        (paired.high + 1e-6, "pass"), ((paired.low + paired.high) / 2, "undecided"),
        (paired.low - 1e-6, "fail"),
    ):  # fmt: skip
        threshold = Threshold("kl.change", max=bound, relative=True, confidence=0.99)
        assert judge(after, threshold, baseline).status == status
    # Apart, each has an interval that says nothing of it.
    assert before.estimate("kl").high is not None


def test_equal_bits_are_no_change_and_noise_is_marginal() -> None:
    baseline = Baseline("v1", ordinary())
    verdict = judge(ordinary(), Threshold("kl.change", max=0.0, relative=True), baseline)
    assert (verdict.status, verdict.marginal) == ("pass", "within numeric noise")
    noisy = replace(ordinary(), sums={**ordinary().sums, "kl": ordinary().sums["kl"] * (1 + 1e-7)})
    for relative in (True, False):
        verdict = judge(noisy, Threshold("kl.change", max=0.0, relative=relative), baseline)
        assert (verdict.status, verdict.marginal) == ("fail", "within numeric noise")
    clear = judge(worse(ordinary(), 1.001), Threshold("kl.change", max=0.0), baseline)
    assert clear.marginal != "within numeric noise"


@pytest.mark.parametrize("case", OTHERS)
def test_an_incomparable_baseline_is_an_error(case: str) -> None:
    after = with_provenance(ordinary(), **OTHERS[case][0])
    threshold = Threshold("kl.change", max=9.0, relative=True)
    verdict = judge(after, threshold, Baseline("v1", ordinary()))
    assert (verdict.status, verdict.cause) == ("error", "setup")
    assert OTHERS[case][1] in verdict.message


def test_a_missing_baseline_or_broken_numbers_are_an_error() -> None:
    threshold = Threshold("kl.change", max=9.0, relative=True)
    assert judge(ordinary(), threshold).status == "error"
    broken = replace(ordinary(), sums={**ordinary().sums, "kl": np.full(8, np.nan)})
    assert judge(broken, threshold, Baseline("v1", ordinary())).status == "error"
    assert judge(ordinary(), threshold, Baseline("v1", broken)).status == "error"


@pytest.mark.parametrize("name", ["kl", "kl.worst_sequence", "explained_variance"])
def test_a_slice_by_source_needs_the_same_sequences(name: str) -> None:
    # Texts that moved to another file are the same tokens.
    before = replace(ordinary(), sources=("a",) * 4 + ("b",) * 4)
    after = replace(ordinary(), sources=("b",) * 4 + ("a",) * 4)
    threshold = Threshold(f"{name}.change@source=a*", max=9.0, min=-9.0)
    baseline = Baseline("v1", before)
    assert judge(before, threshold, baseline).status == "pass"
    verdict = judge(after, threshold, baseline)
    assert (verdict.status, verdict.cause) == ("error", "setup")
    assert "not comparable with v1: the source of some sequences" in verdict.message


@pytest.mark.parametrize("relative", [True, False])
def test_the_interval_of_a_slice_uses_only_its_sequences(relative: bool) -> None:
    # Of four sequences among a hundred it is wide: 3 degrees of freedom, not 99.
    before = replace(ordinary(n=100, of=100), sources=("a",) * 4 + ("b",) * 96)
    times = 1 + np.arange(100) / 100
    after = replace(before, sums={**before.sums, "kl": before.sums["kl"] * times})
    part = Target("kl", slice=Slice("source", glob="a"), change=True)
    sliced, values = change(Baseline("v1", before), after, part, relative=relative)
    first = [
        Measurement(np.arange(4), {k: v[:4] for k, v in m.sums.items()}, m.firings,
                    ordinary(n=4, of=4).provenance)
        for m in (before, after)
    ]  # fmt: skip
    expected, expected_values = change(
        Baseline("v1", first[0]), first[1], Target("kl", change=True), relative=relative
    )
    assert (sliced.value, sliced.low, sliced.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert values.p_value == pytest.approx(expected_values.p_value)
    assert sliced.n_sequences == 4


def test_another_device_warns_and_is_an_error_when_strict() -> None:
    after: Any = with_provenance(ordinary(), device="cuda:0")
    threshold = Threshold("kl.change", max=0.0, relative=True)
    verdict = judge(after, threshold, Baseline("v1", ordinary()))
    assert verdict.status == "warn"
    assert verdict.change is not None
    assert verdict.change.noted == ("device was cpu and is cuda",)
    crossed = judge(with_provenance(worse(ordinary()), device="cuda:0"), threshold,
                    Baseline("v1", ordinary()))  # fmt: skip
    assert crossed.status == "fail"
    strict = judge(after, threshold, Baseline("v1", ordinary(), strict=True))
    assert (strict.status, strict.cause) == ("error", "setup")
    assert "device was cpu and is cuda" in strict.message


def test_a_change_gets_no_early_verdict() -> None:
    partial = ordinary(n=200, of=1000)
    absolute, changed = Threshold("kl", max=9.0), Threshold("kl.change", max=9.0)
    assert early_verdict(partial, absolute, Rule(), 1) is not None
    assert early_verdict(partial, changed, Rule(), 1) is None
