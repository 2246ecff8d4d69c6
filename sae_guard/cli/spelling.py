"""Options in errors → as the commands spell them."""

from __future__ import annotations

from collections.abc import Mapping

from sae_guard.errors import Option, SaeGuardError, with_options

SPELLINGS: Mapping[Option, str] = {
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
    "root": "--root",
}
"""Options that some command has, as they are spelled; other options are not printed."""


def spelled(error: SaeGuardError) -> str:
    """Return the message of an error, with the options that it is about in parentheses."""
    return with_options(str(error), error.options, SPELLINGS)
