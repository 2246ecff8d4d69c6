"""What pydantic found → sentences in the words of the spec: key, value, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.core.targets import WORST
from sae_guard.errors import allowed
from sae_guard.specs.models import DatasetSpec, DataSpec, DocumentModel, ModelSpec
from sae_guard.specs.thresholds import PARETO, Bounds, ParetoModel, SliceModel, WarnBounds

Path = tuple[str | int, ...]

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


def explain(error: ValidationError, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Path and sentence for each thing that is wrong; ``at`` is where the value stands."""
    for detail in error.errors(include_url=False):
        if detail["loc"][-1:] == ("float",):  # the branch of `warn` that was not meant
            continue
        path = (*at, *_keys(detail["loc"]))
        yield path, _sentence(path, detail)


def _keys(location: Path) -> Path:
    """The location without what pydantic adds for the branch of a union."""
    parts = (part for part in location if part != WarnBounds.__name__)
    return tuple(key for part in parts for key in (PARETO.split(".") if part == PARETO else [part]))


def written(path: Path) -> Path:
    """The keys of a path as the spec has them: ``kl.p99`` is ``p99`` below ``kl``."""
    keys: list[str | int] = []
    for before, part in zip((None, *path), path, strict=False):
        below = before == "thresholds" and isinstance(part, str)
        keys.extend(str(part).split(".", 1) if below else [part])
    return tuple(keys)


def _sentence(path: Path, detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    key = str(path[-1]) if path else "the document"
    if kind == "extra_forbidden":
        where = f" in `{_dotted(path[:-1])}`" if path[:-1] else ""
        known = model_at(path[:-1])
        more = ("p50", "p99", WORST) if known is Bounds else ()
        hint = allowed(key, [*known.model_fields, *more], limit=20)
        return f"unknown key {key!r}{where}; {hint}"
    if kind == "missing":
        about = model_at(path[:-1]).model_fields[key].description
        return f"`{_dotted(path)}` is missing: {about}"
    if kind == "spec":
        return f"`{_dotted(path)}` {context['message']}"
    if kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**context)
        return f"`{_dotted(path)}` is {_shown(value)}, allowed: {expected}"
    return f"`{_dotted(path)}` is {_shown(value)}: {detail['msg']}"


def model_at(path: Path) -> type[BaseModel]:
    """The model that describes the mapping at a path."""
    match path:
        case ("model",):
            return ModelSpec
        case ("data",):
            return DataSpec
        case ("data", "dataset"):
            return DatasetSpec
        case ("sae",):
            return SaeOptions
        case ("thresholds", "pareto"):
            return ParetoModel
        case ("thresholds", _):
            return Bounds
        case ("thresholds", _, "warn"):
            return WarnBounds
        case ("slices", _, "thresholds", *rest):
            return model_at(("thresholds", *rest))
        case ("slices", _):
            return SliceModel
    return DocumentModel


def _dotted(path: Path) -> str:
    return ".".join(map(str, path)) or "the document"


def _shown(value: Any) -> str:
    """The value as the spec has it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
