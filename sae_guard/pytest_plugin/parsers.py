"""Values of options: what they become, or a usage error that says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sae_guard.gate.session import DEVICE, DEVICES


def whole(option: str) -> Callable[[str], int]:
    """A whole number from 1 on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise pytest.UsageError(f"{option} {text!r}; allowed: a whole number from 1 on")
        return int(text)

    return parse


def number(option: str, *, above: float = 0, below: float = math.inf) -> Callable[[str], float]:
    """A number between the two."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value < below:
            most = "" if math.isinf(below) else f" and below {below:g}"
            raise pytest.UsageError(f"{option} {text!r}; allowed: a number above {above:g}{most}")
        return value

    return parse


def flag(option: str) -> Callable[[str], bool]:
    """``true`` or ``false``."""

    def parse(text: str) -> bool:
        if text not in ("true", "false"):
            raise pytest.UsageError(f"{option} {text!r}; allowed: true, false")
        return text == "true"

    return parse


def number_or_text(text: str) -> float | str:
    """A number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def device(text: str) -> str:
    """Of `sae_guard.gate.session.pick_device`."""
    if not DEVICE.fullmatch(text):
        raise pytest.UsageError(f"--sae-device {text!r}; allowed: {DEVICES}")
    return text
