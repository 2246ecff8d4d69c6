"""What became of one version against another → JSON for machines. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_guard.core.comparison import Comparison, MetricMove, Moved, MovedSequence, MovedToken

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
