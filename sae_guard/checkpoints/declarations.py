"""What checkpoints say of where they belong, and what formats share to find it out; no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.errors import LoadError

_POST_NORM = re.compile(r"gemma-?[23]|olmo-?[23]|glm-?4", re.IGNORECASE)


@dataclass(frozen=True)
class Declaration:
    """The model and hook point of a checkpoint; None where it does not say."""

    model_name: str | None = None
    hook: str | None = None
    hook_out: str | None = None
    """What a transcoder replaces."""


def text_or_none(value: Any, path: Path, key: str) -> str | None:
    """Return the value of a key in a config if it is text or None; raises `LoadError`."""
    if value is not None and not isinstance(value, str):
        raise LoadError(f"{path}: {key} is {value!r}, expected text")
    return value


def named_by_layer(weights: Path) -> Declaration | None:
    """``Llama-3.1-8B-Instruct-SAE-l19.pth``, the file or its folder; None if not so named."""
    _, match = last_match(r"(.+)-SAE-l(\d+)(?:\.pth?)?", components(weights)[-2:])
    return Declaration(match[1], f"blocks.{match[2]}.hook_resid_post") if match else None


def components(weights: Path) -> tuple[str, ...]:
    """List the names of the folders and of the file, without ``models--organisation--`` of a cache.

    Links between folders are followed; in the cache of the hub the files themselves are links into
    a folder that says nothing.
    """
    named = (*weights.parent.resolve().parts, weights.name)
    return tuple(re.sub(r"^models--.+?--", "", part) for part in named)


def last_match(pattern: str, names: Sequence[str]) -> tuple[int, re.Match[str] | None]:
    """Return index and match of the last name that is as the pattern; 0 and None without one."""
    for index in reversed(range(len(names))):
        match = re.fullmatch(pattern, names[index])
        if match is not None:
            return index, match
    return 0, None


def has_post_norms(model_name: str | None) -> bool:
    """Say whether what modules put out passes a norm before hook_mlp_out and hook_attn_out."""
    return model_name is not None and _POST_NORM.search(model_name) is not None
