"""Write the JSON Schema of a spec document, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any, Literal

from sae_guard.core.metrics import METRICS, Metric
from sae_guard.core.pareto import AXES
from sae_guard.core.targets import QUANTILE, WORST, Slice, Target
from sae_guard.specs.models import SOURCES, DocumentModel
from sae_guard.specs.thresholds import CHANGES, KINDS, PARETO


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one spec document.

    Pydantic's schema, and what its validators check besides: each metric allows its own sides and
    statistics only, ``data`` has one source, a slice one property, and ``pareto`` its axes.
    """
    schema = DocumentModel.model_json_schema()
    properties = schema["properties"]
    properties["model"] = _or_text(properties["model"])
    definitions = schema["$defs"]
    data = definitions["DataSpec"]
    data["properties"]["dataset"] = _or_text(data["properties"]["dataset"])
    # Exactly one source, as `DataSpec` checks in Python.
    data["oneOf"] = [{"required": [source]} for source in SOURCES]
    # Replaced by bounds per metric below: each metric has its own sides and statistics.
    bounds = definitions.pop("BoundsModel")
    definitions.pop("WarnBoundsModel")
    definitions |= {key: bounds["properties"][key] for key in CHANGES.values()}
    interval_keys = {key: bounds["properties"][key] for key in ("confidence", "on_undecided")}
    slice_schema = definitions["SliceModel"]
    slice_schema["oneOf"] = [{"required": [kind], **_metrics_of(kind)} for kind in KINDS]
    pareto = properties.pop(PARETO)
    # Metrics with a better direction: only these can dominate.
    axes = {"enum": list(AXES)}
    for axis in ("x", "y"):
        definitions["ParetoModel"]["properties"][axis] |= axes
    for parent, slice in ((schema, None), (slice_schema, Slice("source"))):
        pydantic_schema = parent["properties"]["thresholds"]
        parent["properties"]["thresholds"] = {
            "type": "object",
            "description": pydantic_schema["description"],
            "minProperties": 1,
            "additionalProperties": False,
            "properties": {
                name: _metric(metric, interval_keys, slice)
                for name, metric in METRICS.items()
                if Target(name, slice=slice).problem() is None
            },
        }
    # `anyOf` below asks for a metric beside pareto, which an SAE without active latents passes.
    properties["thresholds"]["properties"]["pareto"] = {
        "$ref": "#/$defs/ParetoModel", "description": pareto["description"],
    }  # fmt: skip
    properties["thresholds"]["anyOf"] = [{"required": [name]} for name in METRICS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _metrics_of(kind: Literal["position", "entropy", "source"]) -> dict[str, Any]:
    """Return the schema that restricts a slice to the metrics that exist for its kind.

    It restricts nothing for ``source``: slices by source consist of whole sequences and have all
    metrics that the schema of `SliceModel` lists.
    """
    names = [name for name in METRICS if Target(name, slice=Slice(kind)).problem() is None]
    if kind == "source":
        return {}
    return {"properties": {"thresholds": {"propertyNames": {"enum": names}}}}


def _or_text(mapping: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a mapping that may also be written as text."""
    description = {"description": mapping.pop("description")} if "description" in mapping else {}
    return {"anyOf": [{"type": "string", "minLength": 1}, mapping], **description}


def _metric(metric: Metric, interval_keys: dict[str, Any], slice: Slice | None) -> dict[str, Any]:
    """Return the schema of a metric: bounds of its mean, and below them its other statistics."""
    unit = f" ({metric.unit})" if metric.unit else ""
    # A share of latents has no interval, nor has a worst sequence.
    mean = _bounds(metric, interval_keys if metric.firing_above is None else {})
    statistics = {
        statistic: _bounds(metric, keys)
        for statistic, keys in (("p99", interval_keys), (WORST, {}))
        if Target(metric.name, statistic, slice).problem() is None
    }
    patterns = {f"^{QUANTILE.pattern}$": statistics["p99"]} if "p99" in statistics else {}
    worst = {WORST: statistics[WORST]} if WORST in statistics else {}
    return {
        **mean,
        "description": f"{metric.formula}{unit}",
        "properties": {**mean["properties"], **worst},
        "patternProperties": patterns,
        "anyOf": [
            *mean["anyOf"],
            *({"required": [key]} for key in worst),
            # JSON Schema has no "some key matches": not all keys fail to match.
            *({"not": {"propertyNames": {"not": {"pattern": p}}}} for p in patterns),
        ],
    }


def _bounds(metric: Metric, interval_keys: dict[str, Any]) -> dict[str, Any]:
    sides = {side: {"type": "number"} for side in metric.sides}
    changes = {CHANGES[side]: {"$ref": f"#/$defs/{CHANGES[side]}"} for side in metric.sides}
    warn: dict[str, Any] = {"type": "number"}
    if len(sides) > 1:
        both = {"type": "object", "additionalProperties": False, "properties": sides}
        warn = {"anyOf": [warn, both]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**sides, **changes, "warn": warn, **interval_keys},
        "anyOf": [{"required": [side]} for side in (*sides, *changes)],
        **({"dependentRequired": {"on_undecided": ["confidence"]}} if interval_keys else {}),
    }
