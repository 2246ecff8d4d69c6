"""Declared model and hook point, and the helpers that formats share to read configs; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.errors import Contract, LoadError

_POST_NORM = re.compile(r"gemma-?[23]|olmo-?[23]|glm-?4", re.IGNORECASE)


@dataclass(frozen=True)
class Declaration:
    """The model and hook point that a checkpoint declares; None where it declares none."""

    model_name: str | None = None
    hook: str | None = None
    hook_out: str | None = None
    """Hook point whose activations a transcoder replaces."""


def text_or_none(value: Any, path: Path, key: str) -> str | None:
    """Return a config value that must be text or None; raise `LoadError` for other types."""
    if value is not None and not isinstance(value, str):
        raise LoadError(f"{path}: {key} is {value!r}, expected text")
    return value


def flag(
    config: Mapping[str, Any],
    key: str,
    path: Path,
    *,
    default: bool | None = False,
    contract: Contract = "readable",
) -> bool:
    """Return a config value that must be a boolean; raises `LoadError`."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise LoadError(f"{path}: {key} is {value!r}, expected true or false", contract)
    return value


def check_known(
    config: Mapping[str, Any],
    fields: set[str],
    path: Path | str,
    *,
    contract: Contract = "readable",
    where: str = "",
) -> None:
    """Raise `LoadError` where a config has other fields than these.

    Args:
        config: The config, or a part of it.
        fields: The fields that are understood.
        path: The config file, and the key of the part.
        contract: The part of the load contract that breaks.
        where: Addition to the message, such as ``for a topk SAE``.
    """
    # A field of a later version may change the forward pass, so that none is ignored.
    # key=str: a key of YAML may be a number.
    unknown = ", ".join(
        f"{key} = {config[key]!r}" for key in sorted(config.keys() - fields, key=str)
    )
    if unknown:
        understood = f"not understood {where}".rstrip()
        raise LoadError(
            f"{path}: {unknown}: {understood}; allowed keys: {', '.join(sorted(fields))}", contract
        )


def named_by_layer(weights: Path) -> Declaration | None:
    """Read model and layer from ``Llama-3.1-8B-Instruct-SAE-l19.pth``, a file or its folder.

    None if neither has such a name.
    """
    _, match = last_match(r"(.+)-SAE-l(\d+)(?:\.pth?)?", components(weights)[-2:])
    return Declaration(match[1], f"blocks.{match[2]}.hook_resid_post") if match else None


def components(weights: Path) -> tuple[str, ...]:
    """Split the path of weights into names, and drop ``models--organisation--`` of the hub's cache.

    Links between folders are followed, links of the file are not: in the cache of the hub, files
    are links to blobs in a folder without a meaningful name.
    """
    parts = (*weights.parent.resolve().parts, weights.name)
    return tuple(re.sub(r"^models--.+?--", "", part) for part in parts)


def last_match(pattern: str, names: Sequence[str]) -> tuple[int, re.Match[str] | None]:
    """Return index and match of the last name that fully matches; 0 and None without one."""
    for index in reversed(range(len(names))):
        match = re.fullmatch(pattern, names[index])
        if match is not None:
            return index, match
    return 0, None


def has_post_norms(model_name: str | None) -> bool:
    """Return whether a norm lies between a module's output and hook_mlp_out or hook_attn_out."""
    return model_name is not None and _POST_NORM.search(model_name) is not None
