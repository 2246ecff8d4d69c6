"""Outcomes → JSON, and back. Pure: nothing is written here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, NoReturn

from sae_guard.core.report import Outcome
from sae_guard.errors import SetupError

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


_NAMES = {"str": str, "float": (int, float), "int": int, "None": type(None)}
_ALLOWED: dict[str, tuple[Any, ...]] = {
    field.name: tuple(_NAMES[kind] for kind in str(field.type).split(" | "))
    for field in fields(Outcome)
}
_AS_JSON = ("provenance", "controls", "diagnosis", "pareto")
_ALWAYS = ("spec", "name", "checkpoint", "metric", "verdict", "kind")


def from_json(text: str, *, file: str) -> list[Outcome]:
    """The outcomes in a file that `pytest --sae-json` has written.

    What is not finite was written as null and is None. Unknown keys are left out, and so is the
    worst of each checkpoint, which stands elsewhere in the file.

    Raises:
        SetupError: It is no such file, or of a version that is not read.
    """
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{file}: not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("outcomes"), list):
        raise SetupError(f"{file}: not written by `pytest --sae-json`: it has no `outcomes`")
    if (version := document.get("schema_version")) != JSON_SCHEMA_VERSION:
        raise SetupError(f"{file}: `schema_version` is {version!r}, allowed: {JSON_SCHEMA_VERSION}")
    return [_outcome(row, f"{file}: `outcomes.{i}") for i, row in enumerate(document["outcomes"])]


def _outcome(row: Any, at: str) -> Outcome:
    if not isinstance(row, dict):
        raise SetupError(f"{at}` is {row!r}, expected a mapping")
    for name in _ALWAYS:
        if name not in row:
            raise SetupError(f"{at}.{name}` is missing")
    known = {name: value for name, value in row.items() if name in _ALLOWED and name != "worst"}
    for name in _AS_JSON:
        told = known.get(name)
        known[name] = "" if told is None else json.dumps(told)
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, _ALLOWED[name]):
            raise SetupError(f"{at}.{name}` is {value!r}, expected another kind of value")
    return Outcome(**known)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
