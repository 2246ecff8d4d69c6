"""The JSON Schema of a spec document, for editors."""

from __future__ import annotations

from typing import Any

from sae_guard.metrics.table import METRICS, Metric
from sae_guard.spec.models import SOURCES, DocumentModel


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one document; each metric allows its own sides only."""
    schema = DocumentModel.model_json_schema()
    properties = schema["properties"]
    properties["model"] = _or_text(properties["model"])
    definitions = schema["$defs"]
    data = definitions["DataSpec"]
    data["properties"]["dataset"] = _or_text(data["properties"]["dataset"])
    data["oneOf"] = [{"required": [source]} for source in SOURCES]
    for unused in ("Bounds", "WarnBounds"):
        definitions.pop(unused, None)
    properties["thresholds"] = {
        "type": "object",
        "description": properties["thresholds"]["description"],
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: _bounds(metric) for name, metric in METRICS.items()},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _or_text(whole: dict[str, Any]) -> dict[str, Any]:
    described = {"description": whole.pop("description")} if "description" in whole else {}
    return {"anyOf": [{"type": "string", "minLength": 1}, whole], **described}


def _bounds(metric: Metric) -> dict[str, Any]:
    sides = {side: {"type": "number"} for side in metric.sides}
    warn: dict[str, Any] = {"type": "number"}
    if len(sides) > 1:
        both = {"type": "object", "additionalProperties": False, "properties": sides}
        warn = {"anyOf": [warn, both]}
    unit = f" ({metric.unit})" if metric.unit else ""
    return {
        "type": "object",
        "description": f"{metric.formula}{unit}",
        "additionalProperties": False,
        "properties": {**sides, "warn": warn},
        "anyOf": [{"required": [side]} for side in sides],
    }
