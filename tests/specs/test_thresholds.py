"""BoundsModel that are accepted can both pass and fail; the others are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sae_guard.core.metrics import METRICS
from sae_guard.core.targets import Slice
from sae_guard.specs.thresholds import BoundsModel, WarnBoundsModel, problems, to_thresholds
from sae_guard.specs.values import Amount

numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 50.0]) | st.floats(-3, 3)
sides = {"max": numbers, "min": numbers}
warns = numbers | st.fixed_dictionaries({}, optional=sides).map(WarnBoundsModel.model_validate)
any_bounds = st.fixed_dictionaries({}, optional={**sides, "warn": warns})


@given(st.sampled_from(sorted(METRICS)), any_bounds.map(BoundsModel.model_validate))
def test_accepted_bounds_can_pass_and_can_fail(name: str, bounds: BoundsModel) -> None:
    if list(problems(name, bounds)):
        return
    (threshold,) = to_thresholds(name, bounds, file="spec.yaml", line=3)
    low, high = METRICS[name].range
    ends = (low, high, threshold.max, threshold.min)
    possible = [value for value in ends if value is not None and math.isfinite(value)]
    possible += [-1e9, 1e9] if math.isinf(low) else [1e9] if math.isinf(high) else []
    possible = [value for value in possible if low <= value <= high]
    assert any(threshold.allows(value) for value in possible)
    assert any(not threshold.allows(value) for value in possible)
    if threshold.warn_max is not None or threshold.warn_min is not None:
        warns = (threshold.max, threshold.min, threshold.warn_max, threshold.warn_min)
        passing = [v for v in (*possible, *warns) if v is not None and threshold.allows(v)]
        assert any(not threshold.allows_quietly(value) for value in passing)
        assert any(threshold.allows_quietly(value) for value in passing)


@given(st.sampled_from(sorted(METRICS)), numbers)
def test_a_bound_on_the_other_side_is_refused(name: str, bound: float) -> None:
    metric = METRICS[name]
    for side in {"max", "min"} - set(metric.sides):
        messages = dict(problems(name, BoundsModel.model_validate({side: bound})))
        assert "wrong side" in messages[(side,)]


def test_on_undecided_needs_a_confidence_and_a_confidence_an_interval() -> None:
    without_confidence = BoundsModel.model_validate({"max": 0.1, "on_undecided": "warn"})
    messages = dict(problems("kl", without_confidence))
    assert "kl has on_undecided warn but no confidence" in messages["on_undecided",]
    confident = BoundsModel.model_validate({"max": 0.1, "confidence": 0.99})
    assert "no interval" in dict(problems("dead_latents", confident))["confidence",]
    assert not list(problems("kl", confident))
    (threshold,) = to_thresholds("kl", confident, file="spec.yaml", line=3)
    assert (threshold.confidence, threshold.on_undecided) == (0.99, "fail")


@pytest.mark.parametrize(
    ("value", "amount"),
    [("2%", Amount(0.02, share=True)), ("0.5%", Amount(0.005, share=True)), (0.003, Amount(0.003)),
     (1, Amount(1.0)), (0, Amount(0.0))],
)  # fmt: skip
def test_amounts_are_shares_or_in_the_unit(value: Any, amount: Amount) -> None:
    assert BoundsModel.model_validate({"max_increase": value}).max_increase == amount


@pytest.mark.parametrize("value", [-0.1, "2", "-2%", "2 %", "%", math.nan, math.inf, True])
def test_an_amount_that_is_no_number_and_no_share_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="expected a number of 0 or more, or a share"):
        BoundsModel.model_validate({"max_increase": value})


def test_a_bound_on_the_change_is_a_threshold_of_its_own() -> None:
    bounds = BoundsModel.model_validate(
        {"max": 24, "min": 8, "max_increase": "5%", "max_decrease": "3%"}
    )
    assert not list(problems("l0", bounds))
    on_value, on_change = to_thresholds("l0", bounds, file="spec.yaml", line=3)
    assert (str(on_value.target), on_value.max, on_value.min) == ("l0", 24, 8)
    assert on_value.change == ""
    assert (str(on_change.target), on_change.max, on_change.min) == ("l0.change", 0.05, -0.03)
    assert (on_change.change, on_change.line) == ("share", 3)
    (only_change,) = to_thresholds(
        "kl.p99", BoundsModel.model_validate({"max_increase": 0.5}), file="", line=1,
        slice=Slice("position", 0, 8),
    )  # fmt: skip
    assert str(only_change.target) == "kl.p99.change@position=0..8"
    assert (only_change.max, only_change.min, only_change.change) == (0.5, None, "difference")


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("kl", {"max_decrease": 0.1}, "max_decrease", "lower is better; allowed: max_increase"),
    ("cosine", {"max_increase": "1%"}, "max_increase", "higher is better; allowed: max_decrease"),
    ("l0", {"max_increase": "5%", "max_decrease": 1}, "max_decrease",
     "l0 has max_increase 5% and max_decrease 1; write both as shares"),
    ("l0", {"max_decrease": "100%"}, "max_decrease", "cannot fail: its values are at least 0"),
    ("cosine", {"max_decrease": 2}, "max_decrease", "cannot fail: its values are between -1 and 1"),
    ("dead_latents", {"max_increase": 0.1, "confidence": 0.99}, "confidence", "no interval"),
    ("kl.p99", {"max_increase": 0.1, "confidence": 0.99}, "confidence",
     "kl.p99 has confidence, but its change has no interval"),
    ("kl", {"max_increase": 0.1, "warn": 0.1}, "warn", "kl has warn 0.1, but no max or min"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bounds", "key", "message"), REFUSED)
def test_a_meaningless_bound_on_the_change_is_refused(
    name: str, bounds: dict[str, Any], key: str, message: str
) -> None:
    messages = dict(problems(name, BoundsModel.model_validate(bounds)))
    assert message in messages[(key,)]


def test_a_threshold_without_bounds_lists_the_allowed_keys() -> None:
    messages = dict(problems("kl", BoundsModel.model_validate({})))
    assert messages[()] == "kl has no bound; allowed: max, max_increase"
