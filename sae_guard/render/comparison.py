"""What became of one version against another → lines of a terminal, and JSON. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from sae_guard.core.comparison import Comparison, MetricMove, Moved, MovedSequence, MovedToken
from sae_guard.core.comparison.metric_move import SPARSITY
from sae_guard.core.statistics import NOISE
from sae_guard.render.excerpts import COLUMNS, around_lines, beginning_lines, clipped, placed
from sae_guard.render.numbers import number
from sae_guard.tables import table_lines

_LEAST_P = 1e-300
"""Below it floats end."""


def verdict_line(found: Comparison) -> str:
    """The verdict in words, and how far the two metrics moved that it is made of."""
    before, after = found.before, found.after
    if found.verdict is None:
        return f"no verdict on {after} against {before}: {found.no_verdict}"
    two = (found.quality, SPARSITY)
    same = f"no difference of {after} from {before} was found at alpha {found.alpha:g}"
    if any(_within_margin(found, found[name]) for name in two):
        same = f"{after} is no further from {before} than the {_margin(found)} margin"
    said = {
        "dominates": f"{after} dominates {before}",
        "dominated": f"{after} is dominated by {before}",
        "trade-off": f"{after} is a trade-off against {before}",
        "same": same,
    }[found.verdict]
    return f"{said}: {'; '.join(_moved(found, name) for name in two)}"


def comparison_lines(found: Comparison, *, title: str = "") -> Iterator[str]:
    """The verdict, how each metric moved, and what moved most.

    Args:
        found: What is said.
        title: Of what the versions are, such as the spec.
    """
    yield verdict_line(found)
    place = f"{found.hook} → {found.hook_out}" if found.hook_out else found.hook
    counted = f"{found.n_tokens:,} tokens in {found.n_sequences:,} sequences"
    yield ", ".join(filter(None, (title, place, counted)))
    yield from _table(found)
    yield from _told(found)
    yield from _sequences(found.sequences)
    if found.no_tokens:
        yield ""
        yield found.no_tokens
    yield from _tokens(found.tokens)


def _moved(found: Comparison, name: str) -> str:
    moved = found[name]
    told = f"{name} {signed(moved.difference)}"
    if moved.share is not None:
        told += f" ({percent(moved.share)})"
    if moved.outcome == "same" and abs(moved.difference) <= _noise(moved):
        return told if moved.difference == 0 else f"{told}, numeric noise"
    if moved.p_value is None:
        return told
    if _within_margin(found, moved):
        return f"{told}, within the {_margin(found)} margin"
    ends = ""
    if moved.outcome == "same" and moved.low is not None and moved.high is not None:
        ends = f" [{signed(moved.low)}, {signed(moved.high)}]"
    p = probability(moved.p_value)
    return f"{told}{ends}, p {p if p.startswith('<') else f'= {p}'}"


def _within_margin(found: Comparison, moved: MetricMove) -> bool:
    """Whether a difference was found that is too small to count."""
    sure = moved.p_value is not None and moved.p_value < found.alpha
    return moved.outcome == "same" and sure and abs(moved.difference) > _noise(moved)


def _margin(found: Comparison) -> str:
    return f"{100 * found.margin:.3g} %"


def _noise(moved: MetricMove) -> float:
    return NOISE * max(abs(moved.before.value), abs(moved.after.value))


def _table(found: Comparison) -> Iterator[str]:
    asked = (found.quality, SPARSITY)
    shown = [
        each
        for each in found.metrics
        if each.metric in asked or abs(each.difference) > _noise(each)
    ]
    names = (clipped(found.before, 9, end=True), clipped(found.after, 9, end=True))
    interval = f"{100 * found.confidence:.12g} % interval"
    rows = [("metric", *names, "change", interval, "", "p", ""), *map(_row, shown)]
    yield from table_lines(rows, right=range(1, 7), indent="  ")
    same = [each.metric for each in found.metrics if each not in shown]
    if same:
        told = f"the same in both: {', '.join(same)}"
        yield from wrap(told, COLUMNS, initial_indent="  ", subsequent_indent="    ")


def _row(moved: MetricMove) -> tuple[str, ...]:
    interval = "-"
    if moved.low is not None and moved.high is not None:
        interval = f"{signed(moved.low)} to {signed(moved.high)}"
    return (
        moved.metric,
        number(moved.before.value),
        number(moved.after.value),
        signed(moved.difference),
        interval,
        "" if moved.share is None else percent(moved.share),
        "-" if moved.p_value is None else probability(moved.p_value),
        moved.outcome or "",
    )


def _told(found: Comparison) -> Iterator[str]:
    for reason in _reasons({**found.refused, **found.undefined}):
        yield "  " + clipped(f"not compared: {reason}", COLUMNS - 2)
    quality = next((each for each in found.metrics if each.metric == found.quality), None)
    if quality is not None and quality.variance_ratio is not None:
        ratio = quality.variance_ratio
        yield (
            f"  pairing: on different texts the interval of {quality.metric} would be "
            f"{ratio**0.5:.2g} times as wide (variance ratio {ratio:.2g})"
        )
    for line in found.noted:
        yield f"  note: {line}"


def _reasons(why: Mapping[str, str]) -> Iterator[str]:
    """Those that say the same of several metrics once."""
    shared: dict[str, list[str]] = {}
    for name, reason in why.items():
        if reason.startswith(f"{name} "):
            shared.setdefault(reason.removeprefix(name), []).append(name)
        else:
            yield reason
    for rest, names in shared.items():
        yield f"{', '.join(names)}{rest}"


def _sequences(moved: Moved[MovedSequence]) -> Iterator[str]:
    for way, items in (("rose", moved.worse), ("fell", moved.better)):
        yield from _heading(f"sequences whose mean KL {way} most, in nats:", items)
        for each in items:
            place = f"sequence {each.sequence}, {each.n_tokens:,} tokens"
            yield placed(f"  {_from_to(each.before, each.after)} ({place}", each.source)
            yield from beginning_lines(each.text)


def _tokens(moved: Moved[MovedToken]) -> Iterator[str]:
    for way, items in (("rose", moved.worse), ("fell", moved.better)):
        yield from _heading(f"tokens whose KL {way} most, in nats:", items)
        for each in items:
            place = f"sequence {each.sequence}, position {each.position}"
            yield placed(f"  {_from_to(each.before, each.after)} ({place}", each.source)
            yield from around_lines(each.around)


def _heading(text: str, items: Sequence[object]) -> Iterator[str]:
    if items:
        yield ""
        yield text


def _from_to(before: float, after: float) -> str:
    return f"{signed(after - before)}  {number(before)} → {number(after)}"


def signed(value: float) -> str:
    """Four significant digits and the sign."""
    return f"{value:+.4g}" if value else "0"


def percent(share: float) -> str:
    """With its sign; two digits below 10 %."""
    value = 100 * share
    if not value:
        return "0 %"
    return f"{value:+.2g} %" if abs(value) < 9.95 else f"{value:+,.0f} %"


def probability(p: float) -> str:
    """Two digits; what floats cannot tell from 0 is below what they can."""
    return f"{p:.2g}" if p >= _LEAST_P else f"< {_LEAST_P:.0e}"


SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Compared:
    """Two versions at one spec, and what became of them."""

    spec: str
    """``file::name``."""
    before: Mapping[str, Any]
    """What it is: ``name``, and ``record`` or ``checkpoint``."""
    after: Mapping[str, Any]
    comparison: Comparison | None = None
    refused: tuple[str, ...] = ()
    """Why there is none."""


def comparison_json(found: Sequence[Compared]) -> bytes:
    """Strict JSON; `docs/statistics.md` has its keys. What is not finite is null."""
    document = {"schema_version": SCHEMA_VERSION, "comparisons": [_plain(each) for each in found]}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    # Sources may be no UTF-8; JSON reads these escapes as what they were.
    return (text + "\n").encode(errors="backslashreplace")


def _plain(each: Compared) -> dict[str, Any]:
    head = {"spec": each.spec, "before": dict(each.before), "after": dict(each.after)}
    found = each.comparison
    if found is None:
        return {**head, "verdict": None, "not_comparable": list(each.refused)}
    return {
        **head,
        "verdict": found.verdict,
        "no_verdict": found.no_verdict or None,
        "quality": found.quality,
        "alpha": found.alpha,
        "confidence": found.confidence,
        "margin": found.margin,
        "hook": found.hook,
        "hook_out": found.hook_out,
        "tokens_sha256": found.tokens_sha256,
        "n_tokens": found.n_tokens,
        "n_sequences": found.n_sequences,
        "metrics": {move.metric: _metric(move) for move in found.metrics},
        "undefined": dict(found.undefined),
        "other_formula": dict(found.refused),
        "noted": list(found.noted),
        "sequences": _both_ways(found.sequences),
        "tokens": None if found.no_tokens else _both_ways(found.tokens),
        "no_tokens": found.no_tokens or None,
    }


def _metric(move: MetricMove) -> dict[str, Any]:
    return {
        "unit": move.unit,
        "before": _said(move.before.value),
        "before_low": _said(move.before.low),
        "before_high": _said(move.before.high),
        "after": _said(move.after.value),
        "after_low": _said(move.after.low),
        "after_high": _said(move.after.high),
        "difference": _said(move.difference),
        "low": _said(move.low),
        "high": _said(move.high),
        "share": _said(move.share),
        "p": _said(move.p_value),
        "outcome": move.outcome,
        "variance_ratio": _said(move.variance_ratio),
    }


def _both_ways(moved: Moved[Any]) -> dict[str, list[dict[str, Any]]]:
    ways = {"worse": moved.worse, "better": moved.better}
    return {way: [_item(item) for item in items] for way, items in ways.items()}


def _item(item: MovedSequence | MovedToken) -> dict[str, Any]:
    told = {
        "sequence": item.sequence,
        "before": _said(item.before),
        "after": _said(item.after),
        "source": item.source,
    }
    if isinstance(item, MovedSequence):
        return {**told, "n_tokens": item.n_tokens, "text": item.text}
    before, token, following = item.around
    text = {"text_before": before, "token": token, "next": following}
    return {**told, "position": item.position, **text}


def _said(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
