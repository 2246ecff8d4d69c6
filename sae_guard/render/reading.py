"""JSON → outcomes: what `to_json` has written. Pure."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, NoReturn

from sae_guard.core.report import Outcome
from sae_guard.errors import SetupError
from sae_guard.render.documents import JSON_SCHEMA_VERSION

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
