"""Values that a spec writes in more than one way: what they become, or what is wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sae_guard.core.targets import WORST, level


def wrong(message: str) -> PydanticCustomError:
    """What pydantic is to raise, whose message follows the key."""
    # A template, in which braces would be fields.
    return PydanticCustomError("spec", "{message}", {"message": message})


def given(value: Any) -> Any:
    """The value, if there is one behind the key."""
    if value is None:
        raise wrong("is empty: give it a value, or leave it out")
    return value


def _one_or_many(value: Any) -> Any:
    many = (value,) if isinstance(value, str) else value
    if not isinstance(many, (list, tuple)) or not many or not all(isinstance(v, str) for v in many):
        raise wrong(f"is {value!r}, expected text or a list of texts")
    return tuple(many)


def _special_tokens(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(type(v) is int and v >= 0 for v in value):
        return tuple(value)
    if value in ("exclude", "include"):
        return value
    raise wrong(f"is {value!r}, allowed: exclude, include, or a list of token ids")


def _interval(value: Any) -> Any:
    numbers = isinstance(value, (list, tuple)) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != 2 or not value[0] < value[1]:
        raise wrong(f"is {value!r}, expected [low, high] in nats, low below high")
    return (float(value[0]), float(value[1]))


_RANGE = re.compile(r"(\d+(?:\.\d+)?)?\.\.(\d+(?:\.\d+)?)?")


def _range(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    found = _RANGE.fullmatch(value) if isinstance(value, str) else None
    low, high = (found[1], found[2]) if found else (None, None)
    if found is None or low == high or (low and high and not float(low) < float(high)):
        raise wrong(f"is {value!r}, expected a range such as 0..8, 8.. or ..8, low below high")
    return (float(low or 0), float(high or "inf"))


def _glob(value: Any) -> Any:
    # It stands in node ids, whose parts `::` divides.
    if not isinstance(value, str) or not value.isprintable() or not value or "::" in value:
        raise wrong(f"is {value!r}, expected a name or a glob such as arxiv*, without `::`")
    return value


@dataclass(frozen=True)
class Amount:
    """How far something may move."""

    value: float
    share: bool = False
    """Of what it was."""

    def __str__(self) -> str:
        percent = (Decimal(repr(self.value)) * 100).normalize()
        return f"{percent:f}%" if self.share else f"{self.value:g}"


_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


def _amount(value: Any) -> Any:
    if isinstance(value, Amount):
        return value
    if type(value) in (int, float) and 0 <= value < float("inf"):
        return Amount(float(value))
    share = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if share is None:
        raise wrong(f"is {value!r}, expected a number from 0 on, or a share such as 2%")
    return Amount(float(Decimal(share[1]) / 100), share=True)


_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
_DEVICE = r"(cpu|mps|(cuda|xpu)(:\d+)?)"


def _device_map(value: Any) -> Any:
    if isinstance(value, str) and (value in _STRATEGIES or re.fullmatch(_DEVICE, value)):
        return value
    if not isinstance(value, dict) or not value:
        raise wrong(
            f"is {value!r}, allowed: {', '.join(_STRATEGIES)}, a device (cpu, cuda:0), or a "
            "mapping of module names to devices"
        )
    for module, device in value.items():
        text = isinstance(device, str) and re.fullmatch(f"{_DEVICE}|disk", device)
        if not isinstance(module, str) or not (text or (type(device) is int and device >= 0)):
            raise wrong(
                f"puts {module!r} on {device!r}, allowed: the number of a GPU, a device (cpu, "
                "cuda:0), or disk"
            )
    return tuple(value.items())  # a mapping cannot be hashed


def shorthand(key: str) -> BeforeValidator:
    """Text is taken for a mapping with this key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def flat(value: Any) -> Any:
    """``kl: {max: …, p99: {…}}`` as the bounds of ``kl`` and of ``kl.p99``."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, Any] = {}
    for name, given in value.items():
        own = given if isinstance(given, dict) else {}
        others = {key: own[key] for key in own if key == WORST or level(str(key)) is not None}
        if len(others) < len(own) or not others:
            rest = {key: own[key] for key in own if key not in others}
            _add(flat, name, rest if isinstance(given, dict) else given)
        for key, bounds in others.items():
            _add(flat, f"{name}.{key}", bounds)
    return flat


def _add(flat: dict[str, Any], name: str, given: Any) -> None:
    if name in flat:  # as a key, and below that of its metric
        raise wrong(f"bounds {name} twice")
    flat[name] = given


_TEXTS = {"type": "string", "minLength": 1}
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    Field(strict=False),
    WithJsonSchema({"anyOf": [_TEXTS, {"type": "array", "items": _TEXTS, "minItems": 1}]}),
]
SpecialTokens = Annotated[
    Literal["exclude", "include"] | tuple[int, ...],
    BeforeValidator(_special_tokens),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["exclude", "include"]},
                {"type": "array", "items": {"type": "integer", "minimum": 0}},
            ]
        }
    ),
]
Interval = Annotated[
    tuple[float, float],
    BeforeValidator(_interval),
    Field(strict=False),
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]
DeviceMap = Annotated[
    str | tuple[tuple[str, int | str], ...],
    BeforeValidator(_device_map),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^({'|'.join(_STRATEGIES)}|{_DEVICE})$"},
                {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {
                        "anyOf": [
                            {"type": "integer", "minimum": 0},
                            {"type": "string", "pattern": f"^({_DEVICE}|disk)$"},
                        ]
                    },
                },
            ]
        }
    ),
]
Range = Annotated[
    tuple[float, float],
    BeforeValidator(_range),
    Field(strict=False),
    WithJsonSchema({"type": "string", "pattern": f"^{_RANGE.pattern}$"}),
]
Glob = Annotated[
    str,
    BeforeValidator(_glob),
    WithJsonSchema({"type": "string", "pattern": r"^((?!::)[^\x00-\x1f\x7f])+$"}),
]
Moved = Annotated[
    Amount,
    BeforeValidator(_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": f"^{_SHARE.pattern}$"},
            ]
        }
    ),
]
Text = Annotated[str, Field(min_length=1)]
