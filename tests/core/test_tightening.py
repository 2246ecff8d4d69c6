"""Tightened bounds leave the margin to the measured values, and not much more."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sae_guard.core.metrics import METRICS
from sae_guard.core.targets import Target
from sae_guard.core.thresholds import Threshold
from sae_guard.core.tightening import Decision, Measured, tightened
from sae_guard.errors import SetupError
from sae_guard.specs.thresholds import BoundsModel, problems


def bounds(threshold: Threshold) -> dict[str, Any]:
    """Return the bounds as a spec has them."""
    warn = {"max": threshold.warn_max, "min": threshold.warn_min}
    warn = {side: bound for side, bound in warn.items() if bound is not None}
    keys = {"max": threshold.max, "min": threshold.min, "warn": warn or None}
    return {key: value for key, value in keys.items() if value is not None}


def accepted(threshold: Threshold) -> bool:
    return not list(problems(str(threshold.target), BoundsModel.model_validate(bounds(threshold))))


def with_new(threshold: Threshold, decisions: tuple[Decision, ...]) -> Threshold:
    new = {
        f"{'warn_' if d.warn else ''}{d.side}": float(d.new) for d in decisions if d.new is not None
    }
    return dataclasses.replace(threshold, **new)  # type: ignore[arg-type]


numbers = st.one_of(
    st.sampled_from([0.25, 0.1, 1.0, 24.0, 8.0, 100.0, 0.96, 0.999, -0.5, 0.0]),
    st.floats(1e-6, 1e3),
    st.floats(-2, 2),
)


@st.composite
def thresholds(draw: st.DrawFn) -> Threshold:
    name = draw(st.sampled_from(sorted(METRICS)))
    sides = METRICS[name].sides
    bounded = draw(st.sampled_from([*((side,) for side in sides), sides]))
    values: dict[str, Any] = {side: draw(numbers) for side in bounded}
    values |= {f"warn_{side}": draw(numbers) for side in bounded if draw(st.booleans())}
    threshold = Threshold(name, **values, file="s.yaml", line=3)
    assume(accepted(threshold))
    return threshold


margins = st.sampled_from(["0", "0.05", "0.001", "0.5", "0.99"]).map(Decimal)
values = st.lists(numbers, min_size=1, max_size=3)


@given(thresholds(), values, margins, st.booleans())
def test_new_bounds_leave_the_margin_and_little_more(
    threshold: Threshold, results: list[float], margin: Decimal, loosen: bool
) -> None:
    low, high = METRICS[threshold.target.metric].range
    assume(all(low <= value <= high for value in results))
    assume(loosen or all(map(threshold.allows, results)))
    measured = {threshold.target: [Measured(f"v{i}", v) for i, v in enumerate(results)]}
    decisions = tightened([threshold], measured, margin, allow_loosen=loosen)
    new = with_new(threshold, decisions)
    assert [(d.side, d.old) for d in decisions if not d.warn] == [
        (side, getattr(threshold, side)) for side in ("min", "max") if side in bounds(threshold)
    ]
    origin = Fraction(METRICS[threshold.target.metric].tail_from)
    for decision in decisions:
        sign = 1 if decision.side == "max" else -1
        if decision.new is None:
            assert decision.kept
            continue
        assert not decision.kept
        assert loosen or sign * (float(decision.new) - decision.old) < 0
        digits = f"{abs(decision.new - Decimal(int(origin))):f}".replace(".", "").strip("0")
        assert len(digits) <= 17
        if decision.warn:
            continue
        needed = max(sign * v + Fraction(margin) * abs(v - origin) for v in map(exact, results))
        spare = sign * Fraction(decision.new) - needed
        scale = max(abs(v - origin) for v in (*map(exact, results), Fraction(decision.new)))
        assert 0 <= spare <= scale / (10 if decision.old.is_integer() else 100)
        assert all(sign * value <= sign * float(decision.new) for value in results)
    if not loosen:
        assert all(map(new.allows, results))
        assert tightened([new], measured, margin) == tuple(
            dataclasses.replace(d, threshold=new, old=d.old if d.new is None else float(d.new),
                                new=None, kept=again.kept)
            for d, again in zip(
                [d for d in decisions if not d.warn], tightened([new], measured, margin),
                strict=True,
            )
        )  # fmt: skip


def exact(value: float) -> Fraction:
    return Fraction(repr(value))


@given(thresholds(), numbers, margins, st.booleans())
def test_warn_bounds_stay_inside_the_new_bounds(
    threshold: Threshold, value: float, margin: Decimal, loosen: bool
) -> None:
    low, high = METRICS[threshold.target.metric].range
    assume(low <= value <= high)
    assume(loosen or threshold.allows(value))
    # Where it warns already, a warn bound of the other side may have to follow its bound past it.
    assume(threshold.allows_quietly(value))
    assume(
        margin or len(METRICS[threshold.target.metric].sides) == 1
    )  # min and max may be the value
    decisions = tightened(
        [threshold], {threshold.target: [Measured("v", value)]}, margin, allow_loosen=loosen
    )
    new = with_new(threshold, decisions)
    assert accepted(new), bounds(new)
    if margin and not loosen:
        assert new.allows_quietly(value)


def test_a_subnormal_value_has_no_margin() -> None:
    threshold = Threshold("kl", max=0.25, warn_max=0.1)
    for value in (0.0, 5e-324):
        assert decide(threshold, value, margin="0") == ["max its margin would be 0"]


KL = Threshold("kl", max=0.25, warn_max=0.23, file="s.yaml", line=20)


def decide(threshold: Threshold, *values: float, margin: str = "0.05", **options: Any) -> list[str]:
    measured = {threshold.target: [Measured(f"v{i + 1}", v) for i, v in enumerate(values)]}
    decisions = tightened([threshold], measured, Decimal(margin), **options)
    return [
        f"{'warn ' if d.warn else ''}{d.side} {d.kept if d.new is None else format(d.new, 'f')}"
        for d in decisions
    ]


@pytest.mark.parametrize(
    ("threshold", "value", "expected"),
    [
        (KL, 0.1306, ["max 0.138", "warn max 0.134"]),
        (KL, 0.2, ["max 0.21", "warn max 0.205"]),
        (dataclasses.replace(KL, warn_max=0.1), 0.2, ["max 0.21", "warn max is tighter already"]),
        (dataclasses.replace(KL, warn_max=0.15), 0.1, ["max 0.105", "warn max 0.103"]),
        (KL, 0.24, ["max would be 0.252, which is looser"]),
        (KL, 0.0, ["max its margin would be 0"]),
        (Threshold("kl", max=0.105), 0.1, ["max is that already"]),
        (Threshold("kl.p99", max=2.0), 1.25, ["max 1.32"]),
        (Threshold("l0", min=8, max=24), 15.98, ["min 15", "max 17"]),
        (Threshold("l0", min=8.5, max=24.5), 15.98, ["min 15.1", "max 16.8"]),
        (Threshold("l0", max=2000), 1234.5, ["max 1300"]),
        (Threshold("reconstruction_score", min=0.9), 0.9817, ["min 0.9807"]),
        (Threshold("reconstruction_score", min=0.9, warn_min=0.95), 0.9817,
         ["min 0.9807", "warn min 0.9812"]),
        (Threshold("reconstruction_score", min=0.9), 0.99995, ["min 0.9999475"]),
        (Threshold("reconstruction_score", min=0.9), 1.0001, ["min 1.000095"]),
        (Threshold("ce_increase", max=0.1), -0.002, ["max -0.0019"]),
        (Threshold("dead_latents", max=0.99), 0.98, ["max would be 1.03, which cannot fail"]),
        (Threshold("l2_ratio", min=0.9, max=1.05), 0.9597, ["min 0.911", "max 1.01"]),
    ],
)  # fmt: skip
def test_examples_of_tightened_bounds(
    threshold: Threshold, value: float, expected: list[str]
) -> None:
    assert decide(threshold, value) == expected


def test_the_checkpoint_that_needs_the_loosest_bound_decides() -> None:
    assert decide(Threshold("l0", min=8.5, max=64.5), 16.0, 20.0, 12.0) == ["min 11.4", "max 21"]
    measured = {KL.target: [Measured("v1", 0.1), Measured("v2", 0.12)]}
    assert tightened([KL], measured, Decimal(0))[0].measured == Measured("v2", 0.12)
    # Without a margin the value is at its bound, and warns.
    assert decide(KL, 0.1, 0.12, margin="0") == ["max 0.12", "warn max 0.1199"]


def test_a_crossed_bound_is_an_error_unless_loosening_is_allowed() -> None:
    with pytest.raises(SetupError) as caught:
        decide(KL, 0.1, 0.3)
    assert str(caught.value).splitlines() == [
        "s.yaml:20: kl of v2 is 0.3, which crosses max 0.25",
        "bounds are tightened to what keeps them: choose a checkpoint that passes, or allow "
        "loosening",
    ]
    assert caught.value.options == ("allow_loosen",)
    assert decide(KL, 0.1, 0.3, allow_loosen=True) == ["max 0.315", "warn max 0.308"]
    (bound, warn) = tightened(
        [KL], {KL.target: [Measured("v", 0.3)]}, Decimal("0.05"), allow_loosen=True
    )
    assert bound.loosens
    assert warn.loosens
    assert decide(KL, 0.1, allow_loosen=True) == decide(KL, 0.1)


def test_with_a_confidence_the_interval_keeps_the_margin() -> None:
    confident = Threshold("kl", max=0.25, confidence=0.99)
    measured = {Target("kl"): [Measured("v", 0.1, 0.09, 0.11)]}
    assert tightened([confident], measured, Decimal("0.05"))[0].new == Decimal("0.115")
    assert decide(confident, 0.1) == ["max no interval of confidence 0.99 is known"]
    score = Threshold("cosine", min=0.5, confidence=0.99)
    measured = {Target("cosine"): [Measured("v", 0.9, 0.88, 0.92)]}
    assert tightened([score], measured, Decimal("0.05"))[0].new == Decimal("0.875")


def test_bounds_without_a_measurement_are_kept() -> None:
    assert decide(KL) == ["max not measured"]
    other = {Target("kl", "p99"): [Measured("v", 0.1)]}
    assert tightened([KL], other, Decimal("0.05"))[0].kept == "not measured"


@pytest.mark.parametrize("margin", ["-0.01", "1", "NaN"])
def test_a_margin_out_of_range_is_refused(margin: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        tightened([KL], {}, Decimal(margin))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0.00391"), (1 / 256, "0.00782"), (128 / 256, "0.525")],
)
def test_a_share_of_latents_leaves_room_for_one_latent_more(value: float, expected: str) -> None:
    threshold = Threshold("dead_latents", max=0.9)
    measured = {threshold.target: [Measured("v", value, d_sae=256)]}
    (decision,) = tightened([threshold], measured, Decimal("0.05"))
    assert str(decision.new) == expected
    assert float(expected) >= value + 1 / 256
