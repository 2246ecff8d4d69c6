"""Bounds that are accepted can be crossed and can be kept."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sae_guard.metrics.table import METRICS
from sae_guard.spec.bounds import problems, threshold
from sae_guard.spec.models import Bounds, WarnBounds

numbers = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 50.0]) | st.floats(-3, 3)
maybe = st.none() | numbers
warns = st.none() | numbers | st.builds(WarnBounds, max=maybe, min=maybe)


@given(st.sampled_from(sorted(METRICS)), st.builds(Bounds, max=maybe, min=maybe, warn=warns))
def test_accepted_bounds_can_pass_and_can_fail(name: str, bounds: Bounds) -> None:
    if list(problems(name, bounds)):
        return
    made = threshold(name, bounds, file="spec.yaml", line=3)
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
    made = threshold("kl", share, file="spec.yaml", line=3)
    assert (made.confidence, made.on_undecided) == (0.99, "fail")
