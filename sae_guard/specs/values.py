"""Validate and convert the values of a spec that can be written in more than one way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sae_guard.core.targets import WORST, level


def value_error(message: str) -> PydanticCustomError:
    """Return the error for a validator to raise; `messages` puts the key in front of the message.

    Args:
        message: The predicate of the sentence, such as "is 3, expected text".
    """
    # The message goes in as a value: pydantic takes the braces of a template for fields.
    return PydanticCustomError("spec", "{message}", {"message": message})


def require_value(value: Any) -> Any:
    """Return the value of a key; raise where the key has none."""
    if value is None:
        raise value_error("is empty: give it a value, or leave it out")
    return value


def _one_or_many(value: Any) -> Any:
    texts = (value,) if isinstance(value, str) else value
    is_list = isinstance(texts, (list, tuple)) and bool(texts)
    if not is_list or not all(isinstance(text, str) for text in texts):
        raise value_error(f"is {value!r}, expected text or a list of texts")
    return tuple(texts)


def _special_tokens(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(type(v) is int and v >= 0 for v in value):
        return tuple(value)
    if value in ("exclude", "include"):
        return value
    raise value_error(f"is {value!r}, allowed: exclude, include, or a list of token ids")


def _interval(value: Any) -> Any:
    # `type` and not `isinstance`: true and false are integers to Python.
    numbers = isinstance(value, (list, tuple)) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != 2 or not value[0] < value[1]:
        raise value_error(f"is {value!r}, expected [low, high] in nats, low below high")
    return (float(value[0]), float(value[1]))


_RANGE = re.compile(r"(\d+(?:\.\d+)?)?\.\.(\d+(?:\.\d+)?)?")


def _range(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    low, high = (match[1], match[2]) if match else (None, None)
    # `..` alone has two ends of None, which are equal.
    if match is None or low == high or (low and high and not float(low) < float(high)):
        raise value_error(
            f"is {value!r}, expected a range such as 0..8, 8.. or ..8, low below high"
        )
    return (float(low or 0), float(high or "inf"))


def _glob(value: Any) -> Any:
    # The glob becomes part of pytest's node ids, in which `::` separates the parts.
    if not isinstance(value, str) or not value.isprintable() or not value or "::" in value:
        raise value_error(f"is {value!r}, expected a name or a glob such as arxiv*, without `::`")
    return value


@dataclass(frozen=True)
class Amount:
    """Largest allowed change of a metric since the baseline: ``0.003`` or ``2%``."""

    value: float
    """Amount in the metric's unit, or as a fraction of the baseline's value: 0.02 is ``2%``."""
    share: bool = False
    """True if ``value`` is a fraction of the baseline's value."""

    def __str__(self) -> str:
        percent = (Decimal(repr(self.value)) * 100).normalize()
        return f"{percent:f}%" if self.share else f"{self.value:g}"


_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


def _amount(value: Any) -> Any:
    if isinstance(value, Amount):
        return value
    # NaN fails both comparisons.
    if type(value) in (int, float) and 0 <= value < float("inf"):
        return Amount(float(value))
    share = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if share is None:
        raise value_error(f"is {value!r}, expected a number of 0 or more, or a share such as 2%")
    # Decimal divides the digits as written; a division of floats would round twice.
    return Amount(float(Decimal(share[1]) / 100), share=True)


_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
_DEVICE = r"(cpu|mps|(cuda|xpu)(:\d+)?)"


def _device_map(value: Any) -> Any:
    if isinstance(value, str) and (value in _STRATEGIES or re.fullmatch(_DEVICE, value)):
        return value
    if not isinstance(value, dict) or not value:
        raise value_error(
            f"is {value!r}, allowed: {', '.join(_STRATEGIES)}, a device (cpu, cuda:0), or a "
            "mapping of module names to devices"
        )
    for module, device in value.items():
        is_name = isinstance(device, str) and re.fullmatch(f"{_DEVICE}|disk", device)
        if not isinstance(module, str) or not (is_name or (type(device) is int and device >= 0)):
            raise value_error(
                f"puts {module!r} on {device!r}, allowed: the number of a GPU, a device (cpu, "
                "cuda:0), or disk"
            )
    return tuple(value.items())  # specs have to be hashable, and a mapping is not


def shorthand(key: str) -> BeforeValidator:
    """Return a validator that reads the text ``x`` as the mapping ``{key: x}``."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def flatten_statistics(value: Any) -> Any:
    """Return ``kl: {max: …, p99: {…}}`` as the bounds of ``kl`` and those of ``kl.p99``.

    Args:
        value: The ``thresholds`` of a spec. What is not a mapping is returned as it is: the
            validation of its type reports it.

    Raises:
        ValueError: A statistic is bounded twice, as ``kl.p99`` and as ``p99`` below ``kl``.
    """
    if not isinstance(value, dict):
        return value
    flat: dict[str, Any] = {}
    for name, bounds in value.items():
        keys = bounds if isinstance(bounds, dict) else {}
        statistics = {key: keys[key] for key in keys if key == WORST or level(str(key)) is not None}
        # Empty bounds stay an entry: to leave it out would drop the threshold silently.
        if len(statistics) < len(keys) or not statistics:
            of_mean = {key: keys[key] for key in keys if key not in statistics}
            _add(flat, name, of_mean if isinstance(bounds, dict) else bounds)
        for statistic, statistic_bounds in statistics.items():
            _add(flat, f"{name}.{statistic}", statistic_bounds)
    return flat


def _add(flat: dict[str, Any], name: str, bounds: Any) -> None:
    if name in flat:
        raise value_error(
            f"bounds {name} twice: write it as one key, or below its metric, and not both"
        )
    flat[name] = bounds


# Types of the models' fields: how each value is validated, and its JSON Schema.
_TEXT = {"type": "string", "minLength": 1}
_NATURAL = {"type": "integer", "minimum": 0}


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _any_of(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schemas]}


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    Field(strict=False),
    WithJsonSchema(_any_of(_TEXT, {"type": "array", "items": _TEXT, "minItems": 1})),
]
SpecialTokens = Annotated[
    Literal["exclude", "include"] | tuple[int, ...],
    BeforeValidator(_special_tokens),
    WithJsonSchema(_any_of({"enum": ["exclude", "include"]}, {"type": "array", "items": _NATURAL})),
]
Interval = Annotated[
    tuple[float, float],
    BeforeValidator(_interval),
    Field(strict=False),
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]
_MAPPING_TO_DEVICES = {
    "type": "object", "minProperties": 1,
    "additionalProperties": _any_of(_NATURAL, _text(f"({_DEVICE}|disk)")),
}  # fmt: skip
DeviceMap = Annotated[
    str | tuple[tuple[str, int | str], ...],
    BeforeValidator(_device_map),
    WithJsonSchema(_any_of(_text(f"({'|'.join(_STRATEGIES)}|{_DEVICE})"), _MAPPING_TO_DEVICES)),
]
Range = Annotated[
    tuple[float, float],
    BeforeValidator(_range),
    Field(strict=False),
    WithJsonSchema(_text(_RANGE.pattern)),
]
Glob = Annotated[str, BeforeValidator(_glob), WithJsonSchema(_text(r"((?!::)[^\x00-\x1f\x7f])+"))]
ChangeBound = Annotated[
    Amount,
    BeforeValidator(_amount),
    WithJsonSchema(_any_of({"type": "number", "minimum": 0}, _text(_SHARE.pattern))),
]
