"""Which checkpoints a pattern names, what to call them, and what they say of themselves."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.errors import LoadError, SetupError, allowed

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SUFFIXES = (".pt", ".pth", ".safetensors")

_MAX_CONFIG_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Declaration:
    """What a checkpoint says of where it belongs; None where it does not say."""

    model_name: str | None = None
    hook: str | None = None


def find(pattern: str, base: Path) -> list[Path]:
    """The checkpoints that a path or a glob names, relative to ``base``, sorted.

    Raises:
        SetupError: It names none.
    """
    whole = base / Path(pattern).expanduser()
    if whole.exists():  # a path may hold the characters of a glob
        return [_whole_checkpoint(whole)]
    found = {_whole_checkpoint(Path(name)) for name in glob.glob(str(whole), recursive=True)}
    if not found:
        beside = whole.parent.iterdir() if whole.parent.is_dir() else []
        hint = allowed(whole.name, [path.name for path in beside])
        raise SetupError(f"no checkpoint at {whole}; in {whole.parent}: {hint}")
    return sorted(path for path in found if is_checkpoint(path)) or sorted(found)


def _whole_checkpoint(path: Path) -> Path:
    """The folder, where a file is only half of a checkpoint."""
    if path.name in (CONFIG, WEIGHTS) and is_saelens(path.parent):
        return path.parent
    return path


def is_saelens(path: Path) -> bool:
    """Whether the path is a folder with the two files of SAELens."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether the path looks like a checkpoint that can be read."""
    return is_saelens(path) or (path.is_file() and path.suffix in SUFFIXES)


def labels(paths: Sequence[Path]) -> dict[Path, str]:
    """A name per checkpoint for node ids: as few trailing parts of the path as tell them apart."""
    resolved = {path: path.resolve() for path in dict.fromkeys(paths)}
    depth = dict.fromkeys(resolved, 1)
    while True:
        names = {path: _tail(whole, depth[path]) for path, whole in resolved.items()}
        counts = Counter(names.values())
        clashing = [
            path for path, name in names.items()
            if counts[name] > 1 and depth[path] < len(resolved[path].parts)
        ]  # fmt: skip
        if not clashing:
            break
        for path in clashing:
            depth[path] += 1
    return {
        path: name if counts[name] == 1 else resolved[path].as_posix()
        for path, name in names.items()
    }


def _tail(path: Path, depth: int) -> str:
    name = path.with_suffix("") if path.suffix in SUFFIXES else path
    return "/".join(name.parts[-depth:])


def declare(path: Path) -> Declaration:
    """What the checkpoint says of its model and hook point.

    Raises:
        LoadError: There is nothing at the path, or its ``cfg.json`` is unreadable.
    """
    if not path.exists():
        raise LoadError(f"{path}: no such checkpoint")
    if not is_saelens(path):
        return Declaration()
    config = read_config(path / CONFIG)
    metadata = config.get("metadata", {})
    facts = {**config, **(metadata if isinstance(metadata, dict) else {})}
    return Declaration(
        _text(facts.get("model_name"), path, "model_name"),
        _text(facts.get("hook_name"), path, "hook_name"),
    )


def _text(value: Any, path: Path, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise LoadError(f"{path / CONFIG}: {key} is {value!r}, expected text")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `LoadError`."""
    try:
        size = path.stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise LoadError(f"{path}: {size:,} bytes; a config has at most {_MAX_CONFIG_BYTES:,}")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path}: unreadable config: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path}: holds a JSON {type(config).__name__}, expected an object")
    return config
