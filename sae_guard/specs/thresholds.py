"""Validate the ``thresholds`` and ``slices`` of a spec, and turn them into `Threshold`s."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sae_guard.core.metrics import METRICS, Metric
from sae_guard.core.targets import WORST, Slice, Target
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import allowed
from sae_guard.specs.values import (
    Amount,
    ChangeBound,
    Glob,
    Range,
    Text,
    flatten_statistics,
    require_value,
    value_error,
)

KINDS: tuple[Literal["position", "entropy", "source"], ...] = ("position", "entropy", "source")
"""Properties of tokens that slices select by."""


class Strict(BaseModel):
    """A mapping of a spec that allows its own keys only, and converts no types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _NoEmptyKeys(Strict):
    """A mapping whose keys may be left out, but not left empty: ``max:`` would bound nothing."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        return require_value(value)


class WarnBoundsModel(_NoEmptyKeys):
    """Warn bounds of a metric that is bounded on both sides."""

    max: float | None = None
    min: float | None = None


def _warn(value: Any) -> Any:
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, (dict, WarnBoundsModel)):
        return value
    raise value_error(f"is {value!r}, expected a number, or a mapping of max and min")


class BoundsModel(_NoEmptyKeys):
    """The bounds of one metric, as the spec writes them; a value equal to a bound passes."""

    max: float | None = Field(None, description="Largest value that passes.")
    min: float | None = Field(None, description="Smallest value that passes.")
    max_increase: ChangeBound | None = Field(
        None,
        description="Largest increase since the baseline that passes: in the metric's unit, or as "
        "a share of the baseline's value, such as 2%.",
    )
    max_decrease: ChangeBound | None = Field(
        None,
        description="Largest decrease since the baseline that passes: in the metric's unit, or as "
        "a share of the baseline's value, such as 2%.",
    )
    warn: Annotated[float | WarnBoundsModel, BeforeValidator(_warn)] | None = Field(
        None, description="Warn bound, inside the bound: a value past it passes with a warning."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = Field(
        None,
        description="Confidence, such as 0.99: the interval of this confidence, and not the value "
        "alone, must be clear of the bound.",
    )
    on_undecided: Literal["fail", "warn"] = Field(
        "fail", description="Verdict where the bound lies inside the interval: fail or warn."
    )


Thresholds = Annotated[
    dict[str, BoundsModel], BeforeValidator(flatten_statistics), Field(min_length=1)
]


PARETO = "thresholds.pareto"
"""Key path of the Pareto threshold; `DocumentModel` moves it to a field of this alias."""


class ParetoModel(Strict):
    """Pareto threshold: no record of the spec may dominate the checkpoint in two metrics.

    A record dominates if it is at least as good in both metrics and better in one.
    """

    x: Text = Field(description="First metric, such as l0.")
    y: Text = Field(description="Second metric, such as kl.")


class SliceModel(Strict):
    """Thresholds on some of the scored tokens, selected by one of their properties."""

    position: Range | None = Field(
        None, description="Positions in the window, such as 0..8, 8.. or ..8; the end is excluded."
    )
    entropy: Range | None = Field(
        None, description="Entropy of the clean model's prediction at the token, in nats: 2.5.."
    )
    source: Glob | None = Field(
        None, description="Source of the text: a name or a glob, such as arxiv*."
    )
    thresholds: Thresholds = Field(description="Metric → bounds, over these tokens only.")

    @model_validator(mode="before")
    @classmethod
    def _no_pareto(cls, value: Any) -> Any:
        thresholds = value.get("thresholds") if isinstance(value, dict) else None
        if isinstance(thresholds, dict) and "pareto" in thresholds:
            raise value_error(
                "has pareto among its thresholds, but pareto is about all tokens: put it below "
                "the spec's `thresholds`"
            )
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> SliceModel:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise value_error(f"has to have exactly one of {', '.join(KINDS)}")
        return self

    @property
    def slice(self) -> Slice:
        """The tokens that the thresholds are about."""
        if self.position is not None:
            return Slice("position", *self.position)
        if self.entropy is not None:
            return Slice("entropy", *self.entropy)
        assert self.source is not None
        return Slice("source", glob=self.source)


Problem = tuple[tuple[str, ...], str]
"""Keys below the metric's that are at fault, and a sentence about them."""

CHANGES = {"max": "max_increase", "min": "max_decrease"}
"""Side → key of the bound on the change since the baseline in that direction."""
_BETTER = {"lower": "lower is better", "higher": "higher is better"}


def target_of(key: str, slice: Slice | None = None) -> Target:
    """Return the target of a key below ``thresholds``: ``kl``, ``kl.p99``.

    Unlike `Target.parse`, which reads node ids, this takes no ``kl.change`` and no
    ``kl@position=0..8``: specs write changes as ``max_increase`` and slices below ``slices``.
    """
    metric, _, statistic = key.partition(".")
    return Target(metric, statistic or "mean", slice)


def problems(name: str, bounds: BoundsModel, slice: Slice | None = None) -> Iterator[Problem]:
    """Yield each reason why the bounds are no threshold that can both pass and fail.

    Args:
        name: Key below ``thresholds``: ``kl``, ``kl.p99``.
        bounds: Of that key.
        slice: Tokens that the bounds are about; None for all of them.
    """
    target = target_of(name, slice)
    if target.metric not in METRICS:
        hint = allowed(target.metric, METRICS, limit=len(METRICS))
        yield (), f"unknown metric {target.metric!r}; {hint}"
        return
    if (reason := target.problem()) is not None:
        yield (), f"{target}: {reason}"
        return
    metric, sides, changes = METRICS[target.metric], _sides(bounds), _changes(bounds)
    if not sides and not changes:
        keys = [key for side in metric.sides for key in (side, CHANGES[side])]
        yield (), f"{name} has no bound; allowed: {', '.join(keys)}"
    for side, amount in changes.items():
        yield from _change_problems(metric, side, amount, f"{name} has {CHANGES[side]} {amount}")
    # One `Threshold` holds both bounds, in one unit.
    if len({amount.share for amount in changes.values()}) > 1:
        both = " and ".join(f"{CHANGES[side]} {amount}" for side, amount in changes.items())
        yield (
            ("max_decrease",),
            f"{name} has {both}; write both as shares, such as 5%, or both in the metric's unit",
        )
    for side, bound in sides.items():
        if side not in metric.sides:
            yield (
                (side,),
                f"{name} has {side} {bound:g}, which is the wrong side: "
                f"{_BETTER[metric.direction]}; allowed: {', '.join(metric.sides)}",
            )
        else:
            yield from _range_problems(metric, side, bound)
    if "max" in sides and "min" in sides and sides["min"] > sides["max"]:
        yield ("min",), f"{name} has min {sides['min']:g} above max {sides['max']:g}"
    yield from _warn_problems(name, bounds, sides)
    yield from _confidence_problems(metric, bounds)
    if bounds.confidence is not None and target.statistic == WORST:
        yield (
            ("confidence",),
            f"{target} has confidence, but a worst sequence has no interval: leave it out",
        )
    elif bounds.confidence is not None and changes and not _is_sum_over_sequences(target):
        yield (
            ("confidence",),
            f"{target} has confidence, but its change has no interval: records keep sums of "
            "sequences, and neither quantiles nor slices of single tokens; leave it out",
        )


def to_thresholds(
    name: str, bounds: BoundsModel, *, file: str, line: int, slice: Slice | None = None
) -> Iterator[Threshold]:
    """Yield the thresholds that bounds stand for: on the value, on its change, or on both.

    Args:
        name: Key below ``thresholds``: ``kl``, ``kl.p99``.
        bounds: Of that key, without `problems`.
        file: Spec file, as messages name it.
        line: Line of the key in it.
        slice: Tokens that the bounds are about; None for all of them.
    """
    common: dict[str, Any] = {
        "confidence": bounds.confidence, "on_undecided": bounds.on_undecided,
        "file": file, "line": line,
    }  # fmt: skip
    target = target_of(name, slice)
    sides, changes = _sides(bounds), _changes(bounds)
    if sides:
        warn_sides: dict[str, Any] = {
            f"warn_{side}": warn for side, warn in _warn_sides(bounds, sides).items()
        }
        value_sides: dict[str, Any] = {**sides}
        yield Threshold(target, **value_sides, **warn_sides, **common)
    if changes:
        increase, decrease = changes.get("max"), changes.get("min")
        change_sides: dict[str, Any] = {"max": increase.value} if increase else {}
        # Subtracted from 0, because the negative of 0.0 is -0.0 and prints so.
        change_sides |= {"min": 0.0 - decrease.value} if decrease else {}
        relative = any(amount.share for amount in changes.values())
        yield Threshold(replace(target, change=True), **change_sides, **common, relative=relative)


def _changes(bounds: BoundsModel) -> dict[str, Amount]:
    sides = {"max": bounds.max_increase, "min": bounds.max_decrease}
    return {side: amount for side, amount in sides.items() if amount is not None}


def _change_problems(metric: Metric, side: str, amount: Amount, subject: str) -> Iterator[Problem]:
    key, (low, high) = CHANGES[side], metric.range
    if side not in metric.sides:
        sides = ", ".join(CHANGES[side] for side in metric.sides)
        yield (
            (key,),
            f"{subject}, which is the wrong side: {_BETTER[metric.direction]}; allowed: {sides}",
        )
    # A metric that is never negative cannot fall by more than all of it.
    elif amount.share and side == "min" and low >= 0 and amount.value >= 1:
        yield (
            (key,),
            f"{subject}, which cannot fail: its values are {_interval(low, high)}; allowed: below "
            "100%",
        )
    # Nor can any metric move further than its range is wide.
    elif not amount.share and amount.value >= high - low:
        yield (key,), f"{subject}, which cannot fail: its values are {_interval(low, high)}"


def _sides(bounds: BoundsModel | WarnBoundsModel) -> dict[str, float]:
    """Map each side that has a bound, ``max`` or ``min``, to the bound."""
    sides = {"max": bounds.max, "min": bounds.min}
    return {side: bound for side, bound in sides.items() if bound is not None}


def _range_problems(metric: Metric, side: str, bound: float) -> Iterator[Problem]:
    low, high = metric.range
    subject = f"{metric.name} has {side} {bound:g}"
    values = f"its values are {_interval(low, high)}"
    # Bounds are inclusive, so a bound at the end of the range always holds.
    if (side == "max" and bound >= high) or (side == "min" and bound <= low):
        yield (side,), f"{subject}, which cannot fail: {values}"
    if (side == "max" and bound < low) or (side == "min" and bound > high):
        yield (side,), f"{subject}, which cannot pass: {values}"


def _confidence_problems(metric: Metric, bounds: BoundsModel) -> Iterator[Problem]:
    if bounds.confidence is None:
        if "on_undecided" in bounds.model_fields_set:
            yield (
                ("on_undecided",),
                f"{metric.name} has on_undecided {bounds.on_undecided} but no confidence: without "
                "`confidence` no verdict is undecided",
            )
    elif metric.firing_above is not None:
        yield (
            ("confidence",),
            f"{metric.name} has confidence, but a share of latents has no interval: leave it out",
        )


def _is_sum_over_sequences(target: Target) -> bool:
    """Return whether records hold the target's sums per sequence, so that changes can be paired."""
    return target.statistic == "mean" and (target.slice is None or target.slice.by == "source")


def _interval(low: float, high: float) -> str:
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


def _warn_sides(bounds: BoundsModel, sides: dict[str, Any]) -> dict[str, float]:
    """Map each side that has a warn bound to it; a plain number belongs to the only bound."""
    if isinstance(bounds.warn, WarnBoundsModel):
        return _sides(bounds.warn)
    if bounds.warn is not None and len(sides) == 1:
        return {next(iter(sides)): bounds.warn}
    return {}


def _warn_problems(name: str, bounds: BoundsModel, sides: dict[str, float]) -> Iterator[Problem]:
    if isinstance(bounds.warn, float) and len(sides) == 2:
        yield (
            ("warn",),
            f"{name} has warn {bounds.warn:g} and two bounds; say which: "
            "`warn: {max: …}` or `warn: {min: …}`",
        )
    if isinstance(bounds.warn, float) and not sides and _changes(bounds):
        yield (
            ("warn",),
            f"{name} has warn {bounds.warn:g}, but no max or min; changes have no warn bounds",
        )
    for side, warn in _warn_sides(bounds, sides).items():
        if side not in sides:
            yield ("warn",), f"{name} warns at {side} {warn:g}, but has no {side}"
        elif (warn >= sides[side]) if side == "max" else (warn <= sides[side]):
            inside = "below" if side == "max" else "above"
            yield (
                ("warn",),
                f"{name} has warn {warn:g} and {side} {sides[side]:g}; a warn bound has to lie "
                f"{inside} {side}, or it never warns",
            )
    # On each side, the bound that a value crosses first: the warn bound where there is one.
    first_crossed = sides | _warn_sides(bounds, sides)
    already_reported = len(sides) == 2 and sides["min"] > sides["max"]
    both_sides = len(first_crossed) == 2
    if both_sides and first_crossed["min"] > first_crossed["max"] and not already_reported:
        low, high = first_crossed["min"], first_crossed["max"]
        yield (
            ("warn",),
            f"{name} warns at every value: below {low:g} and above {high:g}; leave room between "
            "the two",
        )
