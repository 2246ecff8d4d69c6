"""Changes of thresholds between two versions: tightened, loosened, added, removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.pareto import Pareto
from sae_guard.core.threshold_changes import (
    Bounds,
    ThresholdChange,
    bounds_in_force,
    pareto_changes,
    threshold_changes,
)
from sae_guard.core.thresholds import OnUndecided, Threshold

CONFIDENCES = (0.625, 0.75, 0.875)
"""Binary fractions, as are the widths: their sums are not rounded."""
WIDTHS = (0.0, 0.25, 0.5, 2.0)


@dataclass(frozen=True)
class Limits:
    """The bounds that a spec sets on one target."""

    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    on_undecided: OnUndecided = "fail"
    change: str | None = None


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Draw bounds from 0 to 9 that a spec may set."""
    low, warn_low, warn_high, high = sorted(
        draw(st.sets(st.integers(0, 9), min_size=4, max_size=4))
    )
    sides = draw(st.sampled_from(["max", "min", "both"]))
    sampled = st.sampled_from
    confidence = draw(st.none() | sampled(CONFIDENCES))
    return Limits(
        max=high if sides != "min" else None,
        min=low if sides != "max" else None,
        warn_max=draw(sampled([None, warn_high])) if sides != "min" else None,
        warn_min=draw(sampled([None, warn_low])) if sides != "max" else None,
        confidence=confidence,
        on_undecided=draw(sampled(["fail", "warn"])) if confidence else "fail",
    )


thresholds = st.dictionaries(st.sampled_from(["kl", "l0"]), limits(), max_size=2)


def passes(bounds: Bounds | None, value: float, width: float) -> bool:
    """Return whether a value passes, by the definition of a verdict.

    The half-width of the interval is ``width`` times the confidence.
    """
    if bounds is None:
        return True

    def inside(value: float) -> bool:
        return (bounds.max is None or value <= bounds.max) and (
            bounds.min is None or value >= bounds.min
        )

    if bounds.confidence is None:
        return inside(value)
    low, high = value - bounds.confidence * width, value + bounds.confidence * width
    if inside(low) and inside(high):
        return True
    beyond = (bounds.max is not None and low > bounds.max) or (
        bounds.min is not None and high < bounds.min
    )
    return not beyond and bounds.on_undecided == "warn"


def quiet(bounds: Bounds | None, value: float) -> bool:
    """Return whether a value passes without a warning, whatever its interval."""
    return bounds is None or (
        passes(Limits(bounds.max, bounds.min), value, 0)
        and passes(Limits(bounds.warn_max, bounds.warn_min), value, 0)
    )


def samples() -> list[tuple[float, float]]:
    """Return values and widths at and between which verdicts change."""
    shifts = {sign * c * w for sign, c, w in product((-1, 1), (*CONFIDENCES, 0), WIDTHS)}
    values = {bound + shift for bound in range(-1, 11) for shift in (*shifts, 0.0625, -0.0625)}
    return [(value, width) for value in sorted(values) for width in WIDTHS]


SAMPLES = samples()


@given(thresholds, thresholds)
def test_without_a_looser_change_no_new_value_passes(
    old: dict[str, Bounds], new: dict[str, Bounds]
) -> None:
    changes = list(threshold_changes(old, new))
    for name in {*old, *new}:
        before, after = old.get(name), new.get(name)
        own = [change for change in changes if change.threshold == name]
        if not any(change.looser for change in own if not change.key.startswith("warn")):
            assert all(passes(before, *s) for s in SAMPLES if passes(after, *s))
        if not any(change.looser for change in own):
            assert all(quiet(before, s[0]) for s in SAMPLES if quiet(after, s[0]))


@given(limits(), limits(), st.sampled_from(["max", "min", "warn_max", "warn_min", "confidence"]))
def test_a_single_key_is_looser_iff_more_values_pass(old: Limits, other: Limits, key: str) -> None:
    new = replace(old, **{key: getattr(other, key)})
    changes = list(threshold_changes({"kl": old}, {"kl": new}))
    assert len(changes) == (old != new)
    for change in changes:
        assert (change.threshold, change.key) == ("kl", key)
        assert (change.old, change.new) == (getattr(old, key), getattr(new, key))
        if key.startswith("warn"):
            more = any(quiet(new, s[0]) and not quiet(old, s[0]) for s in SAMPLES)
        else:
            more = any(passes(new, *s) and not passes(old, *s) for s in SAMPLES)
        assert change.looser == more


@given(thresholds, thresholds)
def test_swapping_the_specs_reverses_the_changes(
    old: dict[str, Bounds], new: dict[str, Bounds]
) -> None:
    reverse = {"tightened": "loosened", "loosened": "tightened", "added": "removed",
               "removed": "added"}  # fmt: skip
    forward = {(m.threshold, m.key, m.old, m.new, m.change) for m in threshold_changes(old, new)}
    back = {
        (m.threshold, m.key, m.new, m.old, reverse[m.change]) for m in threshold_changes(new, old)
    }
    assert forward == back
    assert (forward == set()) == (old == new)
    assert list(threshold_changes(new, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Limits(max=0.1), Limits(max=0.12), [("max", "loosened", True)]),
        (Limits(max=0.12), Limits(max=0.1), [("max", "tightened", False)]),
        (Limits(min=0.9), Limits(min=0.95), [("min", "tightened", False)]),
        (Limits(min=0.9), Limits(min=0.8), [("min", "loosened", True)]),
        (Limits(max=1), Limits(max=1, min=0.5), [("min", "added", False)]),
        (Limits(max=1, min=0.5), Limits(max=1), [("min", "removed", True)]),
        (None, Limits(max=1, warn_max=0.9),
         [("max", "added", False), ("warn_max", "added", False)]),
        (Limits(max=1, confidence=0.9), None, [("max", "removed", True)]),
        (Limits(max=1, warn_max=0.8), Limits(max=1, warn_max=0.9),
         [("warn_max", "loosened", True)]),
        (Limits(max=1, warn_max=0.8), Limits(max=1), [("warn_max", "removed", True)]),
        # Everything that was warned about fails now.
        (Limits(max=1, warn_max=0.8), Limits(max=0.7),
         [("max", "tightened", False), ("warn_max", "removed", False)]),
        (Limits(max=1), Limits(max=1, confidence=0.99), [("confidence", "tightened", False)]),
        (Limits(max=1, confidence=0.9), Limits(max=1, confidence=0.99),
         [("confidence", "tightened", False)]),
        (Limits(max=1, confidence=0.99), Limits(max=1), [("confidence", "loosened", True)]),
        (Limits(max=1, confidence=0.9), Limits(max=1, confidence=0.9, on_undecided="warn"),
         [("on_undecided", "loosened", True)]),
        # What is undecided passes: the wider the interval, the more of it.
        (Limits(max=1, confidence=0.9, on_undecided="warn"),
         Limits(max=1, confidence=0.99, on_undecided="warn"), [("confidence", "loosened", True)]),
        (Limits(max=1), Limits(max=1, confidence=0.99, on_undecided="warn"),
         [("confidence", "loosened", True), ("on_undecided", "loosened", True)]),
    ],
)  # fmt: skip
def test_kinds_of_threshold_changes(
    old: Limits | None, new: Limits | None, expected: list[tuple[str, str, bool]]
) -> None:
    before: dict[str, Bounds] = {"kl": old} if old else {}
    after: dict[str, Bounds] = {"kl": new} if new else {}
    assert [(m.key, m.change, m.looser) for m in threshold_changes(before, after)] == expected


def test_relative_and_absolute_changes_count_as_removed_and_added() -> None:
    share, difference = Limits(max=0.02, change="share"), Limits(max=0.01, change="difference")
    changes = threshold_changes({"kl.change": share}, {"kl.change": difference})
    assert [(m.old, m.new, m.change, m.looser, m.share) for m in changes] == [
        (0.02, None, "removed", True, True), (None, 0.01, "added", False, False),
    ]  # fmt: skip
    (wider,) = threshold_changes({"kl.change": share}, {"kl.change": replace(share, max=0.03)})
    assert (wider.change, wider.looser, wider.share) == ("loosened", True, True)
    plain, empty = Limits(max=1), Limits(max=1, change="")  # as records have it, and as specs do
    assert list(threshold_changes({"kl": plain}, {"kl": empty})) == []


def test_bounds_in_force_go_by_the_name_of_the_target() -> None:
    kl, tail = Threshold("kl", max=0.1), Threshold("kl.p99@position=0..8", max=9, confidence=0.9)
    in_force = bounds_in_force([kl, tail])
    assert in_force == {"kl": kl, "kl.p99@position=0..8": tail}
    assert list(threshold_changes(in_force, bounds_in_force([tail, kl]))) == []
    (change,) = threshold_changes(in_force, bounds_in_force([kl]))
    assert (change.threshold, change.key, change.looser) == ("kl.p99@position=0..8", "max", True)


def test_other_pareto_axes_count_as_removed_and_added() -> None:
    old, new = Pareto("l0", "kl"), Pareto("l0", "fvu")
    removed = ThresholdChange("pareto", "axes", "l0, kl", None, "removed", looser=True)
    added = ThresholdChange("pareto", "axes", None, "l0, fvu", "added", looser=False)
    assert list(pareto_changes(old, new)) == [removed, added]
    assert list(pareto_changes(old, None)) == [removed]
    assert list(pareto_changes(None, new)) == [added]
    assert list(pareto_changes(None, None)) == []
    assert list(pareto_changes(old, Pareto("kl", "l0"))) == []  # the same of both
