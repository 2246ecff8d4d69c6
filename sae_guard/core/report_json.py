"""Write reports as JSON and read them back without loss.

JSON has no NaN and no infinities; they are written as the texts ``NaN``, ``Infinity`` and
``-Infinity``. pydantic checks and builds the objects. It is imported where it is used, because
pytest loads this package in every run, even one without anything to gate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from sae_guard.core.report import RunReport
from sae_guard.core.targets import Target
from sae_guard.errors import SaeGuardError, SetupError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 2
"""Version 1 was a flat list of outcomes."""

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def report_to_json(report: RunReport) -> bytes:
    """Return a report as JSON in UTF-8; `report_from_json` reads it."""
    document = {"schema_version": SCHEMA_VERSION, **to_plain(RunReport, report)}
    for case, plain_case in zip(report.cases, document["cases"], strict=True):
        for verdict, plain in zip(case.verdicts, plain_case["verdicts"], strict=True):
            plain |= {name: _plain(getattr(verdict, name)) for name in _DERIVED}
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    # A path that is not valid UTF-8 is written with JSON escapes, which read back as the same path.
    return (text + "\n").encode(errors="backslashreplace")


def report_from_json(data: bytes, *, file: str) -> RunReport:
    """Read a report; unknown keys are ignored.

    Args:
        data: JSON from `report_to_json`.
        file: Name of the file, for messages.

    Raises:
        SetupError: The data is not a report, or of another schema version.
    """
    try:
        # Python's parser accepts NaN and Infinity, which no JSON has.
        document = json.loads(data, parse_constant=_refuse)
    # RecursionError: lists nested thousands deep.
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{file}: not JSON: {error}") from None
    if not isinstance(document, dict) or "schema_version" not in document:
        raise SetupError(f"{file}: not a report of sae_guard: it has no `schema_version`")
    if (version := document.pop("schema_version")) != SCHEMA_VERSION:
        raise SetupError(
            f"{file}: `schema_version` is {version!r}, allowed: {SCHEMA_VERSION}; run the gate "
            "again with this version"
        )
    report: RunReport = from_plain(RunReport, document, source=file)
    return report


def to_plain(kind: Any, value: object) -> Any:
    """Convert a report, or a part of one, into mappings, lists, numbers and text.

    Args:
        kind: Type of the value, such as `CaseReport` or ``tuple[Verdict, ...]``.
        value: Object of this type.
    """
    # pydantic's JSON mode refuses keys that are not valid UTF-8, which file names may be.
    return _plain(_adapter(kind).dump_python(value))


def from_plain(kind: Any, plain: Any, *, source: str) -> Any:
    """Build the object that `to_plain` converted.

    Args:
        kind: Type of the object.
        plain: Mappings, lists, numbers and text from `to_plain`.
        source: File or process that the data comes from, for messages.

    Raises:
        SetupError: The data does not describe an object of this type.
    """
    from pydantic import ValidationError

    try:
        value = _adapter(kind).validate_python(plain)
        problem = _other_kind(plain, to_plain(kind, value))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, detail["loc"])) or "it"
        raise SetupError(f"{source}: `{key}`: {detail['msg']}") from None
    except (ValueError, RecursionError, SaeGuardError) as error:
        raise SetupError(f"{source}: {error}") from None
    if problem is not None:
        raise SetupError(f"{source}: {problem}")
    return value


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a `RunReport` in JSON."""
    schema = _adapter(RunReport).json_schema(mode="serialization")
    definitions = _with_all_numbers(schema.pop("$defs"))
    definitions["Verdict"]["properties"] |= _DERIVED
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {"schema_version": {"const": SCHEMA_VERSION}, **schema["properties"]},
        "required": ["schema_version", *schema["required"]],
        "$defs": {**definitions, "Number": _NUMBER},
    }


_NUMBER = {"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]}
_DERIVED = {
    "unit": {"type": "string"},
    "headroom": {"anyOf": [{"$ref": "#/$defs/Number"}, {"type": "null"}]},
    "passes": {"type": "boolean"},
}
"""Properties of a verdict that are written for other programs; `report_from_json` ignores them."""


def _with_all_numbers(schema: Any) -> Any:
    """Return the schema with every number allowed to be NaN or infinite."""
    if isinstance(schema, list):
        return [_with_all_numbers(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        rest = {key: value for key, value in schema.items() if key != "type"}
        return {**rest, "$ref": "#/$defs/Number"}
    return {key: _with_all_numbers(part) for key, part in schema.items()}


def _plain(value: Any) -> Any:
    """Return the value as mappings, lists, finite numbers and text."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Target):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _other_kind(plain: Any, again: Any, *keys: str) -> str | None:
    """Return a message for the first value that pydantic converted, such as a text to a number.

    Args:
        plain: Data as it was read.
        again: The same data, converted to objects and back.
        keys: Path of keys to the data.

    Returns:
        The message; None where the types agree.
    """
    pairs: Iterable[tuple[Any, Any, Any]]
    if isinstance(plain, dict) and isinstance(again, dict):
        pairs = ((key, plain[key], again[key]) for key in again if key in plain)
    elif isinstance(plain, list) and isinstance(again, list):
        pairs = zip(count(), plain, again)
    else:
        # Other programs write the float 1.0 as 1.
        same = type(plain) is type(again) or {type(plain), type(again)} == {int, float}
        return None if same else f"`{'.'.join(keys)}` is {plain!r}, expected {_kind_of(again)}"
    problems = (_other_kind(part, other, *keys, str(key)) for key, part, other in pairs)
    return next(filter(None, problems), None)


def _kind_of(value: Any) -> str:
    """Return the name that JSON has for the type of a value."""
    names = {
        bool: "true or false", int: "a number", float: "a number", str: "a text",
        list: "a list", dict: "an object", type(None): "null",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
