"""Turn pydantic's errors into sentences about the spec: key, value, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.core.targets import WORST
from sae_guard.errors import allowed
from sae_guard.specs.models import DatasetSpec, DataSpec, DocumentModel, MembersSpec, ModelSpec
from sae_guard.specs.strict_yaml import KeyPath
from sae_guard.specs.thresholds import PARETO, BoundsModel, ParetoModel, SliceModel, WarnBoundsModel

# Pydantic's type of an error → what the message says is allowed.
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "greater_than_equal": "{ge} or more",
    "greater_than": "above {gt}",
    "less_than": "below {lt}",
    "literal_error": "{expected}",
    "string_too_short": "some text",
    "too_short": "at least one",
    "string_pattern_mismatch": "letters, digits, `_`, `.`, `+`, `-` and single spaces",
}


def explain(
    error: ValidationError, parent: KeyPath = (), root: type[BaseModel] = DocumentModel
) -> Iterator[tuple[KeyPath, str]]:
    """Yield the key path and a sentence for each problem that pydantic found.

    Args:
        error: Of the validation of a value.
        parent: Key path of that value in the document.
        root: Model of the document; one other than a spec has no mappings below it with fixed keys.
    """
    for detail in error.errors(include_url=False):
        # `warn` is a number or a mapping: pydantic reports both, and `float` repeats the mapping's.
        if detail["loc"][-1:] == ("float",):
            continue
        path = (*parent, *_spec_keys(detail["loc"]))
        model = model_at(path[:-1]) if root is DocumentModel else root
        yield path, _sentence(path, detail, model)


def _spec_keys(location: KeyPath) -> KeyPath:
    """Return pydantic's location without the parts that name the branch of a union."""
    parts = (part for part in location if part != WarnBoundsModel.__name__)
    return tuple(key for part in parts for key in (PARETO.split(".") if part == PARETO else [part]))


def yaml_path(path: KeyPath) -> KeyPath:
    """Return the path with ``kl.p99`` as the two keys ``kl`` and ``p99``, as YAML nests them."""
    keys: list[str | int] = []
    for previous, part in zip((None, *path), path, strict=False):
        is_metric = previous == "thresholds" and isinstance(part, str)
        keys.extend(str(part).split(".", 1) if is_metric else [part])
    return tuple(keys)


def _sentence(path: KeyPath, detail: ErrorDetails, model: type[BaseModel]) -> str:
    """Write a problem in words; ``model`` describes the mapping that the key is in."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    key = str(path[-1]) if path else "the document"
    if kind == "extra_forbidden":
        parent = f" in `{_dotted(path[:-1])}`" if path[:-1] else ""
        # Any quantile is allowed: two examples stand for all of them.
        statistics = ("p50", "p99", WORST) if model is BoundsModel else ()
        hint = allowed(key, [*model.model_fields, *statistics], limit=20)
        return f"unknown key {key!r}{parent}; {hint}"
    if kind == "missing":
        description = model.model_fields[key].description
        return f"`{_dotted(path)}` is missing: {description}"
    if kind == "spec":  # of `values.value_error`
        return f"`{_dotted(path)}` {context['message']}"
    if kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**context)
        return f"`{_dotted(path)}` is {_as_yaml(value)}, allowed: {expected}"
    return f"`{_dotted(path)}` is {_as_yaml(value)}: {detail['msg']}"


def model_at(path: KeyPath) -> type[BaseModel]:
    """Return the pydantic model that describes the mapping at a key path."""
    # As pydantic nests them; `thresholds.pareto` is no `BoundsModel` though it stands among them.
    match path:
        case ("model",):
            return ModelSpec
        case ("data",):
            return DataSpec
        case ("data", "dataset"):
            return DatasetSpec
        case ("sae",):
            return SaeOptions
        case ("members",):
            return MembersSpec
        case ("thresholds", "pareto"):
            return ParetoModel
        case ("thresholds", _):
            return BoundsModel
        case ("thresholds", _, "warn"):
            return WarnBoundsModel
        case ("slices", _, "thresholds", *rest):
            return model_at(("thresholds", *rest))
        case ("slices", _):
            return SliceModel
    return DocumentModel


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path)) or "the document"


def _as_yaml(value: Any) -> str:
    """Return the value as it looks in a spec, at most 60 characters of it."""
    if value is None:
        return "empty"
    # YAML's spelling, not Python's.
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
