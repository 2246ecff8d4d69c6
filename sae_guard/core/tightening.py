"""Thresholds × what was measured × a margin → bounds that what was measured keeps by the margin.

The margin is a share of the distance of a value from where the values of its metric crowd
(`Metric.tail_from`): of 5 %, a KL of 0.1 is bounded by 0.105 and a score of 0.98 by 0.979. A bound
is rounded away from the value, and is only moved towards it unless loosening is allowed.
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
"""Significant ones of the distance of a bound from where values crowd."""


@dataclass(frozen=True)
class Measured:
    """What a threshold looks at, of one checkpoint."""

    checkpoint: str
    value: float
    low: float | None = None
    high: float | None = None
    """The interval of the confidence that the threshold asks for; None where it is not known."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one bound."""

    threshold: Threshold
    side: Side
    old: float
    new: Decimal | None
    """None where it is kept."""
    kept: str = ""
    """Why."""
    warn: bool = False
    """Whether it is the one that warns."""
    measured: Measured | None = None
    """What it hangs on."""

    @property
    def loosens(self) -> bool:
        """Whether values are allowed that were not."""
        return self.new is not None and _looser(self.side, self.new, _exact(self.old))


def tightened(
    thresholds: Iterable[Threshold],
    measured: Mapping[Target, Sequence[Measured]],
    margin: Decimal,
    *,
    allow_loosen: bool = False,
) -> tuple[Decision, ...]:
    """What becomes of each bound, the warn bounds of those that change among them.

    A bound follows the checkpoint that needs it loosest, so that all of them keep it. A warn bound
    keeps its share of the bound's distance from where values crowd, but stays half of the margin
    away from the values, so that what was measured does not warn; it is loosened only where its
    bound is.

    Args:
        thresholds: Those of a spec; those on changes are left as they are.
        measured: Target → its values on the whole token set, of one or several checkpoints.
        margin: At least 0 and below 1.
        allow_loosen: Whether bounds that are tighter than this are moved too.

    Raises:
        SetupError: A value crosses its threshold, and loosening is not allowed.
    """
    given = tuple(each for each in thresholds if not each.change)
    if not 0 <= margin < 1:
        raise ValueError(f"margin is {margin}, allowed: at least 0 and below 1")
    if not allow_loosen:
        _check_kept(given, measured)
    with localcontext(Context(prec=700)):  # sums of any two floats are exact
        return tuple(
            decision
            for threshold in given
            for decision in _of_threshold(
                threshold, measured.get(threshold.target, ()), margin, allow_loosen=allow_loosen
            )
        )


def _check_kept(
    thresholds: Iterable[Threshold], measured: Mapping[Target, Sequence[Measured]]
) -> None:
    crossed = [
        f"{threshold.where}: {threshold.target} of {found.checkpoint} is {found.value:.6g}, which "
        f"crosses {side} {bound:.12g}"
        for threshold in thresholds
        for found in measured.get(threshold.target, ())
        if not threshold.allows(found.value)
        for side, bound in [threshold.nearest_bound(found.value)]
    ]
    if crossed:
        why = "bounds are tightened to what keeps them; loosening has to be allowed"
        raise SetupError("\n".join([*crossed, why]), options=("allow_loosen",))


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
                _wanted(threshold, side, found, margin / 2, found.value) for found in measured
            ]
            new = _warn(decision, warn, _loosest(side, values))
            kept = "" if new is not None else "is tighter already"
            yield Decision(threshold, side, warn, new, kept, warn=True)


def _of_bound(
    threshold: Threshold,
    side: Side,
    old: float,
    measured: Sequence[Measured],
    margin: Decimal,
    *,
    allow_loosen: bool,
) -> Decision:
    def kept(why: str, by: Measured | None = None) -> Decision:
        return Decision(threshold, side, old, None, why, measured=by)

    ends = {found: _end(threshold, side, found) for found in measured}
    if not ends:
        return kept("not measured")
    wanted = {
        found: _wanted(threshold, side, found, margin, end)
        for found, end in ends.items()
        if end is not None
    }
    if len(wanted) < len(ends):
        return kept(f"no interval of confidence {threshold.confidence:g} is known")
    by = next(found for found in wanted if wanted[found] == _loosest(side, wanted.values()))
    origin = _origin(threshold)
    scale = max(abs(_exact(by.value) - origin), abs(wanted[by] - origin))
    if abs(_exact(by.value) - origin) < _exact(sys.float_info.min):  # or too small for floats
        return kept("its margin would be 0", by)
    new = _rounded(wanted[by], side, scale, whole=float(old).is_integer())
    low, high = metric(threshold.target.metric).range
    if (new >= _exact(high)) if side == "max" else (new <= _exact(low)):
        return kept(f"would be {new:f}, which cannot fail", by)
    if float(new) == old:
        return kept("is that already", by)
    if _looser(side, new, _exact(old)) and not allow_loosen:
        return kept(f"would be {new:f}, which is looser", by)
    return Decision(threshold, side, old, new, measured=by)


def _end(threshold: Threshold, side: Side, found: Measured) -> float | None:
    """What has to be clear of the bound: the value, or an end of its interval."""
    if threshold.confidence is None:
        return found.value
    return found.high if side == "max" else found.low


def _wanted(
    threshold: Threshold, side: Side, found: Measured, margin: Decimal, end: float
) -> Decimal:
    """The bound before it is rounded."""
    distance = abs(_exact(found.value) - _origin(threshold))
    return _exact(end) + (margin if side == "max" else -margin) * distance


def _warn(decision: Decision, old: float, quiet: Decimal) -> Decimal | None:
    """The warn bound inside of a new bound; None where the old one does. ``quiet`` is where no
    value warns."""
    threshold, side, bound = decision.threshold, decision.side, decision.new
    assert bound is not None
    origin, before, warn = _origin(threshold), _exact(decision.old), _exact(old)
    share = (warn - origin) / (before - origin) if before != origin else None
    in_proportion = quiet if share is None else origin + share * (bound - origin)
    scale = abs(bound - origin) or abs(quiet - origin)
    last = bound - (1 if side == "max" else -1) * scale.scaleb(-_DIGITS)
    choices = (_loosest(side, (quiet, in_proportion)), last)
    wanted = next(choice for choice in choices if _looser(side, float(bound), float(choice)))
    new = _rounded(wanted, side, scale, whole=float(old).is_integer())
    digits = _DIGITS
    while not _looser(side, float(bound), float(new)):
        new = _rounded(wanted, side, scale, digits=digits)
        digits += 1
    fits = _looser(side, bound, warn) and not decision.loosens
    return None if new == warn or (fits and not _looser(side, warn, new)) else new


def _rounded(
    value: Decimal, side: Side, scale: Decimal, *, whole: bool = False, digits: int = _DIGITS
) -> Decimal:
    """Away from the values that the side allows, so that what was allowed still is."""
    exponent = scale.adjusted() - digits + 1
    if whole and scale >= 10:
        exponent = max(exponent, 0)
    rounding = ROUND_CEILING if side == "max" else ROUND_FLOOR
    return value.scaleb(-exponent).to_integral_value(rounding).scaleb(exponent).normalize()


def _loosest(side: Side, bounds: Iterable[Decimal]) -> Decimal:
    return max(bounds) if side == "max" else min(bounds)


def _looser(side: Side, one: Decimal | float, other: Decimal | float) -> bool:
    """Whether the one allows more than the other."""
    return one > other if side == "max" else one < other


def _origin(threshold: Threshold) -> Decimal:
    return _exact(metric(threshold.target.metric).tail_from)


def _exact(value: float) -> Decimal:
    """The shortest decimal that is read as this float: what a spec has, and a bound on it."""
    return Decimal(repr(float(value)))
