"""Spell the options of errors and suspicions as on pytest's command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sae_guard.errors import Option, SaeGuardError, with_options

if TYPE_CHECKING:
    from sae_guard.core.diagnosis import Suspicion

SPELLINGS: Mapping[Option, str] = {
    "spec": "--sae-spec",
    "hook": "--sae-hook",
    "device": "--sae-device",
    "batch_size": "--sae-batch-size",
    "cache": "--sae-cache",
    "controls": "--sae-controls",
    "diagnose": "--sae-diagnose",
    "record": "--sae-record",
    "baseline": "--sae-baseline",
    "fast": "--sae-fast",
    "alpha": "--sae-alpha",
    "audit": "--sae-audit",
    "max_seconds": "--sae-max-seconds",
    "max_sequences": "--sae-max-sequences",
    "architecture": "--sae-arch",
    "k": "--sae-k",
    "pre_bias": "--sae-pre-bias",
    "normalize": "--sae-norm",
    "scale": "--sae-scale",
}
"""Option → its spelling in pytest. Messages leave out options that pytest does not have."""


def spelled(error: SaeGuardError) -> str:
    """Return the message of an error with its options, in parentheses."""
    return with_options(str(error), error.options, SPELLINGS)


def spelled_options(suspicion: Suspicion) -> str:
    """Return the arguments that follow a suspicion, such as ``--sae-arch topk --sae-k 32``."""
    words = [
        word
        for option, value in suspicion.options
        if option in SPELLINGS
        for word in (SPELLINGS[option], value)
    ]
    return " ".join(filter(None, words))
