"""The shape of thresholds in a spec, and what becomes of them: `Threshold`s, or what is wrong."""

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
from sae_guard.specs.values import Amount, Glob, Moved, Range, Text, flat, given, wrong

KINDS: tuple[Literal["position", "entropy", "source"], ...] = ("position", "entropy", "source")
"""Of slices."""


class Strict(BaseModel):
    """A mapping of a spec: its keys and their types are these and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Given(Strict):
    """A mapping whose keys may be left out, not left empty: a bound would be missing silently."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        return given(value)


class WarnBounds(_Given):
    """Warn bounds of a metric that has both sides."""

    max: float | None = None
    min: float | None = None


def _warn(value: Any) -> Any:
    if type(value) in (int, float):
        return float(value)
    if isinstance(value, (dict, WarnBounds)):
        return value
    raise wrong(f"is {value!r}, expected a number, or a mapping of max and min")


class Bounds(_Given):
    """The bounds of one metric, inclusive."""

    max: float | None = Field(None, description="Largest value that passes.")
    min: float | None = Field(None, description="Smallest value that passes.")
    max_increase: Moved | None = Field(
        None,
        description="Largest increase since the baseline that passes: in the metric's unit, or a "
        "share of what it was, such as 2%.",
    )
    max_decrease: Moved | None = Field(None, description="Largest decrease, likewise.")
    warn: Annotated[float | WarnBounds, BeforeValidator(_warn)] | None = Field(
        None, description="Inside the bound: values past it pass with a warning."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = Field(
        None,
        description="The interval of this confidence, not the value alone, must be clear of the "
        "bound, such as 0.99.",
    )
    on_undecided: Literal["fail", "warn"] = Field(
        "fail", description="What becomes of an interval that holds the bound."
    )


Thresholds = Annotated[
    dict[str, Bounds],
    BeforeValidator(flat),
    Field(min_length=1),
]


PARETO = "thresholds.pareto"
"""Where it stands; as a key no spec can have it."""


class ParetoModel(Strict):
    """No record of the spec may be at least as good in both metrics and better in one."""

    x: Text = Field(description="A metric, such as l0.")
    y: Text = Field(description="Another, such as kl.")


class SliceModel(Strict):
    """Thresholds on some of the scored tokens."""

    position: Range | None = Field(
        None, description="By their place in the window: 0..8, 8.. or ..8; the end is not in it."
    )
    entropy: Range | None = Field(
        None, description="By the entropy of the clean prediction there, in nats."
    )
    source: Glob | None = Field(
        None, description="By where the text comes from: a name or a glob, such as arxiv*."
    )
    thresholds: Thresholds = Field(description="Metric → bounds.")

    @model_validator(mode="before")
    @classmethod
    def _no_pareto(cls, value: Any) -> Any:
        thresholds = value.get("thresholds") if isinstance(value, dict) else None
        if isinstance(thresholds, dict) and "pareto" in thresholds:
            raise wrong("has pareto among its thresholds, which is of all tokens")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> SliceModel:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise wrong(f"has to have one of {', '.join(KINDS)}")
        return self

    @property
    def slice(self) -> Slice:
        """What it is about."""
        if self.position is not None:
            return Slice("position", *self.position)
        if self.entropy is not None:
            return Slice("entropy", *self.entropy)
        assert self.source is not None
        return Slice("source", glob=self.source)


Problem = tuple[tuple[str, ...], str]
"""Keys below the metric's, and what is wrong there."""

CHANGES = {"max": "max_increase", "min": "max_decrease"}
"""Side → the key that bounds how far a metric moves there."""
_BETTER = {"lower": "lower is better", "higher": "higher is better"}


def target_of(key: str, slice: Slice | None = None) -> Target:
    """What a key below ``thresholds`` is about: slices and changes are not written there."""
    metric, _, statistic = key.partition(".")
    return Target(metric, statistic or "mean", slice)


def problems(name: str, bounds: Bounds, slice: Slice | None = None) -> Iterator[Problem]:
    """What keeps the bounds from being a threshold that can pass and can fail."""
    target = target_of(name, slice)
    if target.metric not in METRICS:
        hint = allowed(target.metric, METRICS, limit=len(METRICS))
        yield (), f"unknown metric {target.metric!r}; {hint}"
        return
    if (why := target.problem()) is not None:
        yield (), f"{target}: {why}"
        return
    metric, given, moves = METRICS[target.metric], _given(bounds), _moves(bounds)
    sides = [key for side in metric.sides for key in (side, CHANGES[side])]
    if not given and not moves:
        yield (), f"{name} has no bound; allowed: {', '.join(sides)}"
    for side, amount in moves.items():
        yield from _move_problems(metric, side, amount, f"{name} has {CHANGES[side]} {amount}")
    if len({amount.share for amount in moves.values()}) > 1:
        told = " and ".join(f"{CHANGES[side]} {amount}" for side, amount in moves.items())
        yield ("max_decrease",), f"{name} has {told}: both have to be shares, or neither"
    for side, bound in given.items():
        if side not in metric.sides:
            yield (
                (side,),
                f"{name} has {side} {bound:g}, which is the wrong side: "
                f"{_BETTER[metric.direction]}; allowed: {', '.join(metric.sides)}",
            )
        else:
            yield from _range_problems(metric, side, bound)
    if "max" in given and "min" in given and given["min"] > given["max"]:
        yield ("min",), f"{name} has min {given['min']:g} above max {given['max']:g}"
    yield from _warn_problems(name, bounds, given)
    yield from _confidence_problems(metric, bounds)
    if bounds.confidence is not None and target.statistic == WORST:
        yield ("confidence",), f"{target} has confidence, but no interval"
    elif bounds.confidence is not None and moves and not _has_rows(target):
        yield (
            ("confidence",),
            f"{target} has confidence, but its change no interval: rows of records do not tell it",
        )


def thresholds(
    name: str, bounds: Bounds, *, file: str, line: int, slice: Slice | None = None
) -> Iterator[Threshold]:
    """The thresholds of bounds without problems: on the value, on its change, or on both."""
    common: dict[str, Any] = {
        "confidence": bounds.confidence, "on_undecided": bounds.on_undecided,
        "file": file, "line": line,
    }  # fmt: skip
    target = target_of(name, slice)
    given, moves = _given(bounds), _moves(bounds)
    if given:
        sides: dict[str, Any] = {**given}
        sides |= {f"warn_{side}": warn for side, warn in _warn_bounds(bounds, given).items()}
        yield Threshold(target, **sides, **common)
    if moves:
        up, down = moves.get("max"), moves.get("min")
        by: dict[str, Any] = {"max": up.value} if up else {}
        by |= {"min": 0.0 - down.value} if down else {}
        relative = any(amount.share for amount in moves.values())
        yield Threshold(replace(target, change=True), **by, **common, relative=relative)


def _moves(bounds: Bounds) -> dict[str, Amount]:
    sides = {"max": bounds.max_increase, "min": bounds.max_decrease}
    return {side: amount for side, amount in sides.items() if amount is not None}


def _move_problems(metric: Metric, side: str, amount: Amount, said: str) -> Iterator[Problem]:
    key, (low, high) = CHANGES[side], metric.range
    if side not in metric.sides:
        sides = ", ".join(CHANGES[side] for side in metric.sides)
        yield (
            (key,),
            f"{said}, which is the wrong side: {_BETTER[metric.direction]}; allowed: {sides}",
        )
    elif amount.share and side == "min" and low >= 0 and amount.value >= 1:
        yield (key,), f"{said}, which cannot fail: nothing is left of it then"
    elif not amount.share and amount.value >= high - low:
        yield (key,), f"{said}, which cannot fail: its values are {_interval(low, high)}"


def _given(bounds: Bounds | WarnBounds) -> dict[str, float]:
    sides = {"max": bounds.max, "min": bounds.min}
    return {side: bound for side, bound in sides.items() if bound is not None}


def _range_problems(metric: Metric, side: str, bound: float) -> Iterator[Problem]:
    low, high = metric.range
    said = f"{metric.name} has {side} {bound:g}"
    values = f"its values are {_interval(low, high)}"
    if (side == "max" and bound >= high) or (side == "min" and bound <= low):
        yield (side,), f"{said}, which cannot fail: {values}"
    if (side == "max" and bound < low) or (side == "min" and bound > high):
        yield (side,), f"{said}, which cannot pass: {values}"


def _confidence_problems(metric: Metric, bounds: Bounds) -> Iterator[Problem]:
    if bounds.confidence is None:
        if "on_undecided" in bounds.model_fields_set:
            said = f"{metric.name} has on_undecided {bounds.on_undecided} and no confidence"
            yield ("on_undecided",), f"{said}: it is never undecided"
    elif metric.firing_above is not None:
        yield ("confidence",), f"{metric.name} has confidence, but no interval: it is a share"


def _has_rows(target: Target) -> bool:
    """Whether two records of it can be compared row by row."""
    return target.statistic == "mean" and (target.slice is None or target.slice.by == "source")


def _interval(low: float, high: float) -> str:
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


def _warn_bounds(bounds: Bounds, given: dict[str, Any]) -> dict[str, float]:
    if isinstance(bounds.warn, WarnBounds):
        return _given(bounds.warn)
    if bounds.warn is not None and len(given) == 1:
        return {next(iter(given)): bounds.warn}
    return {}


def _warn_problems(name: str, bounds: Bounds, given: dict[str, float]) -> Iterator[Problem]:
    if isinstance(bounds.warn, float) and len(given) == 2:
        yield (
            ("warn",),
            f"{name} has warn {bounds.warn:g} and two bounds; say which: "
            "`warn: {max: …}` or `warn: {min: …}`",
        )
    if isinstance(bounds.warn, float) and not given and _moves(bounds):
        yield ("warn",), f"{name} has warn {bounds.warn:g}, but no bound that it lies inside of"
    for side, warn in _warn_bounds(bounds, given).items():
        if side not in given:
            yield ("warn",), f"{name} warns at {side} {warn:g}, but has no {side}"
        elif (warn >= given[side]) if side == "max" else (warn <= given[side]):
            inside = "below" if side == "max" else "above"
            yield (
                ("warn",),
                f"{name} has warn {warn:g} and {side} {given[side]:g}: a warning lies {inside} "
                "the bound, or it is never seen",
            )
    quiet = given | _warn_bounds(bounds, given)
    crossed = len(given) == 2 and given["min"] > given["max"]  # told already
    if len(quiet) == 2 and quiet["min"] > quiet["max"] and not crossed:
        yield ("warn",), f"{name} always warns: {quiet['min']:g} > {quiet['max']:g}"
