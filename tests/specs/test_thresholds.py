"""Bounds that are accepted can be crossed and can be kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sae_guard.core.metrics import METRICS
from sae_guard.core.targets import Slice
from sae_guard.specs.thresholds import Bounds, WarnBounds, problems, thresholds
from sae_guard.specs.values import Amount

numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 50.0]) | st.floats(-3, 3)
sides = {"max": numbers, "min": numbers}
warns = numbers | st.fixed_dictionaries({}, optional=sides).map(WarnBounds.model_validate)
any_bounds = st.fixed_dictionaries({}, optional={**sides, "warn": warns})


@given(st.sampled_from(sorted(METRICS)), any_bounds.map(Bounds.model_validate))
def test_accepted_bounds_can_pass_and_can_fail(name: str, bounds: Bounds) -> None:
    if list(problems(name, bounds)):
        return
    (made,) = thresholds(name, bounds, file="spec.yaml", line=3)
    low, high = METRICS[name].range
    possible = [v for v in (low, high, made.max, made.min) if v is not None and math.isfinite(v)]
    possible += [-1e9, 1e9] if math.isinf(low) else [1e9] if math.isinf(high) else []
    possible = [value for value in possible if low <= value <= high]
    assert any(made.allows(value) for value in possible)
    assert any(not made.allows(value) for value in possible)
    bounds_and_warns = [made.max, made.min, made.warn_max, made.warn_min]
    quiet = [v for v in (*possible, *bounds_and_warns) if v is not None and made.allows(v)]
    if made.warn_max is not None or made.warn_min is not None:
        assert any(not made.allows_quietly(value) for value in quiet)
        assert any(made.allows_quietly(value) for value in quiet)


@given(st.sampled_from(sorted(METRICS)), numbers)
def test_a_bound_on_the_other_side_is_refused(name: str, bound: float) -> None:
    metric = METRICS[name]
    for side in {"max", "min"} - set(metric.sides):
        found = dict(problems(name, Bounds.model_validate({side: bound})))
        assert "wrong side" in found[(side,)]


def test_what_is_undecided_needs_a_confidence_and_that_an_interval() -> None:
    alone = Bounds.model_validate({"max": 0.1, "on_undecided": "warn"})
    found = dict(problems("kl", alone))
    assert found["on_undecided",] == (
        "kl has on_undecided warn and no confidence: it is never undecided"
    )
    share = Bounds.model_validate({"max": 0.1, "confidence": 0.99})
    assert "no interval" in dict(problems("dead_latents", share))["confidence",]
    assert not list(problems("kl", share))
    (made,) = thresholds("kl", share, file="spec.yaml", line=3)
    assert (made.confidence, made.on_undecided) == (0.99, "fail")


@pytest.mark.parametrize(
    ("given", "amount"),
    [("2%", Amount(0.02, share=True)), ("0.5%", Amount(0.005, share=True)), (0.003, Amount(0.003)),
     (1, Amount(1.0)), (0, Amount(0.0))],
)  # fmt: skip
def test_amounts_are_shares_or_in_the_unit(given: Any, amount: Amount) -> None:
    assert Bounds.model_validate({"max_increase": given}).max_increase == amount


@pytest.mark.parametrize("given", [-0.1, "2", "-2%", "2 %", "%", math.nan, math.inf, True])
def test_what_is_no_amount_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="expected a number from 0 on, or a share such as 2%"):
        Bounds.model_validate({"max_increase": given})


def test_a_bound_on_the_change_is_a_threshold_of_its_own() -> None:
    given = Bounds.model_validate({"max": 24, "min": 8, "max_increase": "5%", "max_decrease": "3%"})
    assert not list(problems("l0", given))
    own, change = thresholds("l0", given, file="spec.yaml", line=3)
    assert (str(own.target), own.max, own.min, own.change) == ("l0", 24, 8, "")
    assert (str(change.target), change.max, change.min) == ("l0.change", 0.05, -0.03)
    assert (change.change, change.line) == ("share", 3)
    (alone,) = thresholds(
        "kl.p99", Bounds.model_validate({"max_increase": 0.5}), file="", line=1,
        slice=Slice("position", 0, 8),
    )  # fmt: skip
    assert str(alone.target) == "kl.p99.change@position=0..8"
    assert (alone.max, alone.min, alone.change) == (0.5, None, "difference")


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("kl", {"max_decrease": 0.1}, "max_decrease", "lower is better; allowed: max_increase"),
    ("cosine", {"max_increase": "1%"}, "max_increase", "higher is better; allowed: max_decrease"),
    ("l0", {"max_increase": "5%", "max_decrease": 1}, "max_decrease",
     "l0 has max_increase 5% and max_decrease 1: both have to be shares, or neither"),
    ("l0", {"max_decrease": "100%"}, "max_decrease", "cannot fail: nothing is left of it then"),
    ("cosine", {"max_decrease": 2}, "max_decrease", "cannot fail: its values are between -1 and 1"),
    ("dead_latents", {"max_increase": 0.1, "confidence": 0.99}, "confidence", "no interval"),
    ("kl.p99", {"max_increase": 0.1, "confidence": 0.99}, "confidence",
     "kl.p99 has confidence, but its change no interval: rows of records do not tell it"),
    ("kl", {"max_increase": 0.1, "warn": 0.1}, "warn", "no bound that it lies inside of"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "key", "said"), REFUSED)
def test_a_bound_on_the_change_that_means_nothing_is_refused(
    name: str, given: dict[str, Any], key: str, said: str
) -> None:
    found = dict(problems(name, Bounds.model_validate(given)))
    assert said in found[(key,)]


def test_no_bound_at_all_lists_what_is_allowed() -> None:
    found = dict(problems("kl", Bounds.model_validate({})))
    assert found[()] == "kl has no bound; allowed: max, max_increase"
