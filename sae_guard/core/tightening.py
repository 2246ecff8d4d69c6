"""Tighten the bounds of thresholds to the measured values plus a margin.

The margin is a share of the distance of a value from `Metric.tail_from` (0 for a KL, 1 for a
score): a margin of 5 % bounds a KL of 0.1 by 0.105 and a score of 0.98 by 0.979. A bound is rounded
away from the value, and is loosened only where that is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext

from sae_guard.core.metrics import Side, metric
from sae_guard.core.targets import Target
from sae_guard.core.thresholds import Threshold
from sae_guard.errors import SetupError

_DIGITS = 3
"""Significant digits of the distance of a bound from `Metric.tail_from`."""


@dataclass(frozen=True)
class Measured:
    """The value of a target for one checkpoint."""

    checkpoint: str
    value: float
    low: float | None = None
    high: float | None = None
    """Upper end of the interval at the threshold's ``confidence``; both ends are None if unknown.
    """
    d_sae: int | None = None
    """Number of latents, for shares of them; None if unknown."""


@dataclass(frozen=True)
class Decision:
    """The new value of one bound, or the reason why it stays."""

    threshold: Threshold
    side: Side
    old: float
    new: Decimal | None
    """New bound; None where the old one is kept."""
    kept: str = ""
    """The reason why the old bound is kept; empty where it changes."""
    warn: bool = False
    """True for a warn bound."""
    measured: Measured | None = None
    """Checkpoint that the bound follows: the one that needs it loosest."""

    @property
    def loosens(self) -> bool:
        """True where the new bound allows more values than the old one."""
        return self.new is not None and _looser(self.side, self.new, _exact(self.old))


def tightened(
    thresholds: Iterable[Threshold],
    measured: Mapping[Target, Sequence[Measured]],
    margin: Decimal,
    *,
    allow_loosen: bool = False,
) -> tuple[Decision, ...]:
    """Return a decision for every bound, and for the warn bounds of the bounds that change.

    A bound follows the checkpoint that needs it loosest, so that all checkpoints keep it. A warn
    bound keeps its proportion of the bound's distance from `Metric.tail_from`, but stays half the
    margin away from the values, so that no checkpoint warns. It is loosened only with its bound.

    Args:
        thresholds: Thresholds of a spec; thresholds on a change are skipped.
        measured: Target → its values on the whole token set, for one or several checkpoints.
        margin: Share of the distance from `Metric.tail_from`, at least 0 and below 1.
        allow_loosen: True to loosen bounds that are tighter than the values plus the margin.

    Raises:
        SetupError: A value crosses its threshold, and loosening is not allowed.
        ValueError: The margin is out of range.
    """
    absolute = tuple(threshold for threshold in thresholds if not threshold.change)
    if not 0 <= margin < 1:
        raise ValueError(f"margin is {margin}, allowed: at least 0 and below 1")
    if not allow_loosen:
        _check_not_crossed(absolute, measured)
    # 700 digits: the sum of any two floats is exact.
    with localcontext(Context(prec=700)):
        return tuple(
            decision
            for threshold in absolute
            for decision in _of_threshold(
                threshold, measured.get(threshold.target, ()), margin, allow_loosen=allow_loosen
            )
        )


def _check_not_crossed(
    thresholds: Iterable[Threshold], measured: Mapping[Target, Sequence[Measured]]
) -> None:
    crossed = [
        f"{threshold.where}: {threshold.target} of {result.checkpoint} is {result.value:.6g}, "
        f"which crosses {side} {bound:.12g}"
        for threshold in thresholds
        for result in measured.get(threshold.target, ())
        if not threshold.allows(result.value)
        for side, bound in [threshold.nearest_bound(result.value)]
    ]
    if crossed:
        remedy = (
            "bounds are tightened to what keeps them: choose a checkpoint that passes, or allow "
            "loosening"
        )
        raise SetupError("\n".join([*crossed, remedy]), options=("allow_loosen",))


def _of_threshold(
    threshold: Threshold, measured: Sequence[Measured], margin: Decimal, *, allow_loosen: bool
) -> Iterator[Decision]:
    sides: list[tuple[Side, float | None, float | None]] = [
        ("min", threshold.min, threshold.warn_min), ("max", threshold.max, threshold.warn_max),
    ]  # fmt: skip
    for side, bound, warn in sides:
        if bound is None:
            continue
        decision = _of_bound(threshold, side, bound, measured, margin, allow_loosen=allow_loosen)
        yield decision
        if decision.new is not None and warn is not None:
            values = [
                _with_margin(threshold, side, result, margin / 2, result.value)
                for result in measured
            ]
            new = _warn(decision, warn, _loosest(side, values))
            reason = "" if new is not None else "is tighter already"
            yield Decision(threshold, side, warn, new, reason, warn=True)


def _of_bound(
    threshold: Threshold,
    side: Side,
    old: float,
    measured: Sequence[Measured],
    margin: Decimal,
    *,
    allow_loosen: bool,
) -> Decision:
    def unchanged(reason: str, result: Measured | None = None) -> Decision:
        return Decision(threshold, side, old, None, reason, measured=result)

    ends = {result: _end(threshold, side, result) for result in measured}
    if not ends:
        return unchanged("not measured")
    unrounded = {
        result: _with_margin(threshold, side, result, margin, end)
        for result, end in ends.items()
        if end is not None
    }
    if len(unrounded) < len(ends):
        return unchanged(f"no interval of confidence {threshold.confidence:g} is known")
    bound = _loosest(side, unrounded.values())
    loosest = next(result for result in unrounded if unrounded[result] == bound)
    origin = _origin(threshold)
    distance = max(abs(_exact(loosest.value) - origin), abs(bound - origin))
    if distance < _exact(sys.float_info.min):  # 0, or too small for a normal float
        return unchanged("its margin would be 0", loosest)
    new = _rounded(bound, side, distance, to_integer=float(old).is_integer())
    low, high = metric(threshold.target.metric).range
    if (new >= _exact(high)) if side == "max" else (new <= _exact(low)):
        return unchanged(f"would be {new:f}, which cannot fail", loosest)
    if float(new) == old:
        return unchanged("is that already", loosest)
    if _looser(side, new, _exact(old)) and not allow_loosen:
        return unchanged(f"would be {new:f}, which is looser", loosest)
    return Decision(threshold, side, old, new, measured=loosest)


def _end(threshold: Threshold, side: Side, result: Measured) -> float | None:
    """Return the number that must be within the bound: the value or an end of its interval."""
    if threshold.confidence is None:
        return result.value
    return result.high if side == "max" else result.low


def _with_margin(
    threshold: Threshold, side: Side, result: Measured, margin: Decimal, end: float
) -> Decimal:
    """Return ``end`` plus the margin, the bound before rounding.

    A share of latents moves in steps of 1 / d_sae: its margin is one latent at least.
    """
    distance = abs(_exact(result.value) - _origin(threshold))
    room = margin * distance
    if metric(threshold.target.metric).firing_above is not None and result.d_sae and margin:
        room = max(room, 1 / Decimal(result.d_sae))
    return _exact(end) + (room if side == "max" else -room)


def _warn(decision: Decision, old: float, quiet: Decimal) -> Decimal | None:
    """Return the warn bound that goes with a new bound; None where the old one can stay.

    Args:
        decision: Decision with the new bound.
        old: Warn bound before.
        quiet: Tightest warn bound at which no measured value warns.
    """
    threshold, side, bound = decision.threshold, decision.side, decision.new
    assert bound is not None
    origin, before, warn = _origin(threshold), _exact(decision.old), _exact(old)
    share = (warn - origin) / (before - origin) if before != origin else None
    in_proportion = quiet if share is None else origin + share * (bound - origin)
    scale = abs(bound - origin) or abs(quiet - origin)
    # The loosest warn bound that differs from the bound in the last digit written.
    last = bound - (1 if side == "max" else -1) * scale.scaleb(-_DIGITS)
    candidates = (_loosest(side, (quiet, in_proportion)), last)
    unrounded = next(value for value in candidates if _looser(side, float(bound), float(value)))
    new = _rounded(unrounded, side, scale, to_integer=float(old).is_integer())
    digits = _DIGITS
    # Rounded outwards, the warn bound may meet the bound: more digits keep them apart.
    while not _looser(side, float(bound), float(new)):
        new = _rounded(unrounded, side, scale, digits=digits)
        digits += 1
    fits = _looser(side, bound, warn) and not decision.loosens
    return None if new == warn or (fits and not _looser(side, warn, new)) else new


def _rounded(
    value: Decimal, side: Side, scale: Decimal, *, to_integer: bool = False, digits: int = _DIGITS
) -> Decimal:
    """Round a bound outwards: up for a ``max``, down for a ``min``.

    Args:
        value: Bound to round.
        side: Side of the bound.
        scale: Number whose leading digit counts as the first significant one.
        to_integer: True to round bounds of 10 and more to integers.
        digits: Number of significant digits.
    """
    exponent = scale.adjusted() - digits + 1
    if to_integer and scale >= 10:
        exponent = max(exponent, 0)
    rounding = ROUND_CEILING if side == "max" else ROUND_FLOOR
    return value.scaleb(-exponent).to_integral_value(rounding).scaleb(exponent).normalize()


def _loosest(side: Side, bounds: Iterable[Decimal]) -> Decimal:
    return max(bounds) if side == "max" else min(bounds)


def _looser(side: Side, one: Decimal | float, other: Decimal | float) -> bool:
    """Return whether bound ``one`` allows more values than ``other``."""
    return one > other if side == "max" else one < other


def _origin(threshold: Threshold) -> Decimal:
    return _exact(metric(threshold.target.metric).tail_from)


def _exact(value: float) -> Decimal:
    """Return the shortest decimal that reads as this float: the number as a spec writes it."""
    return Decimal(repr(float(value)))
