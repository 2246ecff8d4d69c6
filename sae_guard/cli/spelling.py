"""Options in errors and suspicions → as the commands spell them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from sae_guard.errors import Option, SaeGuardError, with_options

if TYPE_CHECKING:
    from sae_guard.core.diagnosis import Suspicion

SPELLINGS: Mapping[Option, str] = MappingProxyType(
    {
        "spec": "--spec",
        "hook": "--hook",
        "device": "--device",
        "batch_size": "--batch-size",
        "cache": "--cache",
        "record": "--record",
        "baseline": "--baseline",
        "architecture": "--arch",
        "k": "--k",
        "pre_bias": "--pre-bias",
        "normalize": "--norm",
        "scale": "--scale",
        "model": "--model",
        "allow_loosen": "--allow-loosen",
    }
)
"""Options that some command has, as they are spelled; other options are not printed."""

_SWITCHED_OFF = "--no-pre-bias"


def spelled(error: SaeGuardError) -> str:
    """Return the message of an error, with the options that it is about in parentheses."""
    return with_options(str(error), error.options, SPELLINGS)


def spelled_options(suspicion: Suspicion) -> str:
    """Return what a suspicion adds to a command, such as ``--arch topk --k 32``."""
    return " ".join(
        _spelled_setting(option, value)
        for option, value in suspicion.options
        if option in SPELLINGS
    )


def _spelled_setting(option: Option, value: str) -> str:
    if option == "pre_bias":  # a spec has true and false, a command has two switches
        return SPELLINGS[option] if value == "true" else _SWITCHED_OFF
    return f"{SPELLINGS[option]} {value}".rstrip()
