"""The JSON Schema of a spec document, for editors."""

from __future__ import annotations

from typing import Any, Literal

from sae_guard.core.metrics import METRICS, Metric
from sae_guard.core.pareto import AXES
from sae_guard.core.targets import QUANTILE, WORST, Slice, Target
from sae_guard.specs.models import SOURCES, DocumentModel
from sae_guard.specs.thresholds import CHANGES, KINDS, PARETO


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one document; each metric allows its own sides only."""
    schema = DocumentModel.model_json_schema()
    properties = schema["properties"]
    properties["model"] = _or_text(properties["model"])
    definitions = schema["$defs"]
    data = definitions["DataSpec"]
    data["properties"]["dataset"] = _or_text(data["properties"]["dataset"])
    data["oneOf"] = [{"required": [source]} for source in SOURCES]
    bounds = definitions.pop("Bounds")
    definitions.pop("WarnBounds")
    definitions |= {key: bounds["properties"][key] for key in CHANGES.values()}
    about = {key: bounds["properties"][key] for key in ("confidence", "on_undecided")}
    part = definitions["SliceModel"]
    part["oneOf"] = [{"required": [kind], **_metrics_of(kind)} for kind in KINDS]
    pareto = properties.pop(PARETO)
    axes = {"enum": list(AXES)}
    for axis in ("x", "y"):
        definitions["ParetoModel"]["properties"][axis] |= axes
    for holder, by in ((schema, None), (part, Slice("source"))):
        described = holder["properties"]["thresholds"]
        holder["properties"]["thresholds"] = {
            "type": "object",
            "description": described["description"],
            "minProperties": 1,
            "additionalProperties": False,
            "properties": {
                name: _metric(metric, about, by)
                for name, metric in METRICS.items()
                if Target(name, slice=by).problem() is None
            },
        }
    # Beside others: an SAE without latents is dominated by none.
    properties["thresholds"]["properties"]["pareto"] = {
        "$ref": "#/$defs/ParetoModel", "description": pareto["description"],
    }  # fmt: skip
    properties["thresholds"]["anyOf"] = [{"required": [name]} for name in METRICS]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _metrics_of(kind: Literal["position", "entropy", "source"]) -> dict[str, Any]:
    """Slices by source, which are of whole sequences, have more metrics than the others."""
    names = [name for name in METRICS if Target(name, slice=Slice(kind)).problem() is None]
    if kind == "source":
        return {}
    return {"properties": {"thresholds": {"propertyNames": {"enum": names}}}}


def _or_text(whole: dict[str, Any]) -> dict[str, Any]:
    described = {"description": whole.pop("description")} if "description" in whole else {}
    return {"anyOf": [{"type": "string", "minLength": 1}, whole], **described}


def _metric(metric: Metric, about: dict[str, Any], by: Slice | None) -> dict[str, Any]:
    """Bounds of the metric's mean, and of its other statistics."""
    unit = f" ({metric.unit})" if metric.unit else ""
    shares = about if metric.firing_above is None else {}
    own = _bounds(metric, shares)
    named = {
        statistic: _bounds(metric, more)
        for statistic, more in (("p99", about), (WORST, {}))
        if Target(metric.name, statistic, by).problem() is None
    }
    patterns = {f"^{QUANTILE.pattern}$": named["p99"]} if "p99" in named else {}
    worst = {WORST: named[WORST]} if WORST in named else {}
    return {
        **own,
        "description": f"{metric.formula}{unit}",
        "properties": {**own["properties"], **worst},
        "patternProperties": patterns,
        "anyOf": [
            *own["anyOf"],
            *({"required": [key]} for key in worst),
            # Some key other than those of the mean.
            *({"not": {"propertyNames": {"not": {"pattern": p}}}} for p in patterns),
        ],
    }


def _bounds(metric: Metric, about: dict[str, Any]) -> dict[str, Any]:
    sides = {side: {"type": "number"} for side in metric.sides}
    moves = {CHANGES[side]: {"$ref": f"#/$defs/{CHANGES[side]}"} for side in metric.sides}
    warn: dict[str, Any] = {"type": "number"}
    if len(sides) > 1:
        both = {"type": "object", "additionalProperties": False, "properties": sides}
        warn = {"anyOf": [warn, both]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**sides, **moves, "warn": warn, **about},
        "anyOf": [{"required": [side]} for side in (*sides, *moves)],
        **({"dependentRequired": {"on_undecided": ["confidence"]}} if about else {}),
    }
