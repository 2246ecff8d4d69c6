"""Reports as JSON, and back: every number survives, also NaN and the infinities.

JSON has no word for these; they are written as the texts ``NaN``, ``Infinity`` and ``-Infinity``.
pydantic checks and builds the objects. It is imported where it is used: pytest loads this package
in every run, whether there is anything to gate or not.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from sae_guard.core.report import CaseReport, RunReport
from sae_guard.core.verdicts import Verdict
from sae_guard.errors import SetupError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 2
"""Version 1 was a flat list of outcomes."""

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def to_json(report: RunReport) -> bytes:
    """Write a report for people and programs; `from_json` reads it."""
    document = {"schema_version": SCHEMA_VERSION, **_plain(_run(), report)}
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    # Paths may be no UTF-8; JSON reads these escapes as what they were.
    return (text + "\n").encode(errors="backslashreplace")


def from_json(data: bytes, *, file: str) -> RunReport:
    """Read a report. Keys that are not known are left out.

    Args:
        data: What `to_json` wrote.
        file: What to call it in messages.

    Raises:
        SetupError: It is no report, or of a version that is not read.
    """
    try:
        document = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{file}: not JSON: {error}") from None
    if not isinstance(document, dict) or "schema_version" not in document:
        raise SetupError(f"{file}: not a report of sae_guard: it has no `schema_version`")
    if (version := document.pop("schema_version")) != SCHEMA_VERSION:
        raise SetupError(
            f"{file}: `schema_version` is {version!r}, allowed: {SCHEMA_VERSION}; run the gate "
            "again with this version"
        )
    report: RunReport = _checked(_run(), document, file)
    return report


def case_to_json(report: CaseReport) -> str:
    """Write a part of a run as ASCII, to cross processes."""
    return json.dumps(_plain(_case(), report), allow_nan=False)


def case_from_json(text: str) -> CaseReport:
    """Read what `case_to_json` wrote; raises `SetupError`."""
    report: CaseReport = _checked(_case(), json.loads(text), "report of a process")
    return report


def verdicts_to_plain(verdicts: tuple[Verdict, ...]) -> list[Any]:
    """Turn verdicts into lists, numbers and text; `verdicts_from_plain` builds them again."""
    plain: list[Any] = _not_finite_as_text(_verdicts().dump_python(verdicts, mode="json"))
    return plain


def verdicts_from_plain(plain: list[Any]) -> tuple[Verdict, ...]:
    """Build the verdicts that `verdicts_to_plain` took apart; raises `SetupError`."""
    verdicts: tuple[Verdict, ...] = _checked(_verdicts(), plain, "verdicts of a process")
    return verdicts


def json_schema() -> dict[str, Any]:
    """Describe the JSON of a `RunReport` as a JSON Schema (draft 2020-12)."""
    schema = _run().json_schema(mode="serialization")
    definitions = {**schema.pop("$defs"), "Number": _NUMBER}
    properties = {"schema_version": {"const": SCHEMA_VERSION}, **schema["properties"]}
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": properties,
        "required": ["schema_version", *schema["required"]],
        "$defs": definitions,
    }
    numbers: dict[str, Any] = _with_all_numbers(described)
    return {**numbers, "$defs": {**numbers["$defs"], "Number": _NUMBER}}


_NUMBER = {"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]}


def _with_all_numbers(schema: Any) -> Any:
    """Let every number be one that JSON has no word for."""
    if isinstance(schema, list):
        return [_with_all_numbers(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        rest = {key: value for key, value in schema.items() if key != "type"}
        return {**rest, "$ref": "#/$defs/Number"}
    return {key: _with_all_numbers(part) for key, part in schema.items()}


def _plain(adapter: TypeAdapter[Any], report: object) -> dict[str, Any]:
    plain: dict[str, Any] = _not_finite_as_text(adapter.dump_python(report, mode="json"))
    return plain


def _not_finite_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _not_finite_as_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_not_finite_as_text(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _checked(adapter: TypeAdapter[Any], plain: Any, file: str) -> Any:
    from pydantic import ValidationError

    try:
        return adapter.validate_python(plain)
    except (ValidationError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise SetupError(f"{file}: {error}") from None
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, detail["loc"])) or "it"
        raise SetupError(f"{file}: `{key}`: {detail['msg']}") from None


@cache
def _run() -> TypeAdapter[Any]:
    return _adapter(RunReport)


@cache
def _case() -> TypeAdapter[Any]:
    return _adapter(CaseReport)


@cache
def _verdicts() -> TypeAdapter[Any]:
    return _adapter(tuple[Verdict, ...])


def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
