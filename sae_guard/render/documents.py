"""Outcomes → JSON. Pure: nothing is written here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sae_guard.core.report import Outcome

JSON_SCHEMA_VERSION = 1


def to_json(
    outcomes: Iterable[Outcome],
    *,
    verdict: str,
    version: str,
    looser: Iterable[Mapping[str, Any]] = (),
) -> str:
    """All outcomes as strict JSON: a number that JSON cannot say is null beside its verdict.

    ``looser`` is what `looser_row` says of thresholds, of any spec of the run.
    """
    rows = list(outcomes)
    document: dict[str, Any] = {
        "schema_version": JSON_SCHEMA_VERSION,
        "sae_guard": version,
        "verdict": verdict,
        "outcomes": [_json_row(outcome) for outcome in rows],
        "worst_cases": _worst_cases(rows),
        "looser": list(looser),
    }
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _json_row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = _finite(asdict(outcome))
    for name in ("provenance", "controls", "diagnosis", "pareto"):
        row[name] = json.loads(row[name]) if row[name] else None
    del row["worst"]
    return row


def _worst_cases(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Of each checkpoint at each spec, once: under xdist several workers may have told them."""
    told = {(o.spec, o.name, o.checkpoint): o.worst for o in outcomes if o.worst}
    return [
        {"spec": spec, "name": name, "checkpoint": checkpoint, **_finite(json.loads(worst))}
        for (spec, name, checkpoint), worst in told.items()
    ]


def _finite(value: Any) -> Any:
    """The value with None for each number in it that JSON cannot say."""
    if isinstance(value, dict):
        return {name: _finite(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_finite(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
