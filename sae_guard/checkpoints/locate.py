"""Which checkpoints a pattern names, which files they are, and what to call them."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.checkpoints.safe_pickle.inert import check_plain
from sae_guard.errors import LoadError, SetupError, allowed
from sae_guard.files import expanded

SUFFIXES = (".pt", ".pth", ".safetensors", ".npz", ".pkl", ".pkl.gz")

# Config and weights of a checkpoint that is a folder; the most telling names first.
_FOLDERS: tuple[tuple[str | None, str], ...] = (
    ("cfg.json", "sae_weights.safetensors"),  # SAELens
    ("cfg.json", "sae.safetensors"),  # sparsify
    ("cfg.json", "cc_weights.pt"),  # crosscoders
    ("hyperparams.json", "checkpoints/final.safetensors"),  # OpenMOSS 2024 …
    ("hyperparams.json", "checkpoints/pruned.safetensors"),
    ("hyperparams.json", "checkpoints/final.pt"),
    ("hyperparams.json", "checkpoints/pruned.pt"),
    ("hyperparams.json", "sae_weights.safetensors"),
    ("hyperparams.json", "sae_weights.pt"),
    ("config.json", "sae_weights.safetensors"),  # … and since 2025
    ("config.json", "sae_weights.pt"),
    ("config.json", "ae.pt"),  # dictionary_learning
    ("config.json", "sae.pt"),  # Bussmann
    ("config.json", "params.safetensors"),  # Gemma Scope 2
    (None, "params.safetensors"),
    (None, "params.npz"),  # Gemma Scope
    ("conf.yaml", "latest_ckpt.safetensors"),  # temporal SAEs
)
_BESIDE = {
    "final_config.yaml": r"samples_\d+\.pt",  # e2e_sae
    "config.yaml": r"layer_\d+\.safetensors",  # circuit-tracer
    "config.json": r"params\.safetensors",  # Gemma Scope 2
}
"""Configs that lie beside weights of one of several names."""
FILES_OF_FOLDERS = tuple(dict.fromkeys(name for pair in _FOLDERS for name in pair if name))
CONFIGS_ABOVE = ("cfg.json", "config.json", "hyperparams.json", "lm_config.json", *_BESIDE)
"""Configs that lie beside the weights or up to two folders above."""
_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_YAML = 2**18  # takes longer to read than JSON


@dataclass(frozen=True)
class Parts:
    """The files of a checkpoint."""

    weights: Path
    config: Path | None = None


def parts(path: Path) -> Parts | None:
    """The files of the checkpoint at ``path``; None if it does not look like one."""
    if path.is_dir():
        for config, weights in _FOLDERS:
            if (path / weights).is_file() and (config is None or (path / config).is_file()):
                return Parts(path / weights, path / config if config else None)
        return None
    if path.is_file() and path.name.endswith(SUFFIXES):
        return Parts(path, _config_beside(path))
    return None


def _config_beside(weights: Path) -> Path | None:
    """``NAME_cfg.json``, or the one that dictionary_learning keeps for ``checkpoints/ae_*.pt``."""
    own = weights.with_name(f"{weights.stem}_cfg.json")
    if own.is_file():
        return own
    for config, pattern in _BESIDE.items():
        if re.fullmatch(pattern, weights.name) and weights.with_name(config).is_file():
            return weights.with_name(config)
    hyperparams = weights.parent.parent / "hyperparams.json"
    if weights.parent.name == "checkpoints" and hyperparams.is_file():
        return hyperparams
    if re.fullmatch(r"ae(_\d+)?\.pt", weights.name):
        for folder in (weights.parent, weights.parent.parent):
            if (folder / "config.json").is_file():
                return folder / "config.json"
    return None


def find(pattern: str, base: Path) -> list[Path]:
    """The checkpoints that a path or a glob names, relative to ``base``, sorted.

    Raises:
        SetupError: It names none.
    """
    whole = base / expanded(pattern)
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
    whole = parts(path.parent) if path.is_file() else None
    return path.parent if whole and path in (whole.weights, whole.config) else path


def is_checkpoint(path: Path) -> bool:
    """Whether the path looks like a checkpoint that can be read."""
    return parts(path) is not None


def labels(paths: Sequence[Path]) -> dict[Path, str]:
    """A name per checkpoint for node ids: as few trailing parts of the path as tell them apart."""
    # Path.resolve raises on a loop of symbolic links before Python 3.13.
    resolved = {path: Path(os.path.realpath(path)) for path in dict.fromkeys(paths)}
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
    suffix = next((s for s in reversed(SUFFIXES) if path.name.endswith(s)), "")
    return "/".join([*path.parts[:-1], path.name.removesuffix(suffix)][-depth:])


def read_config(path: Path) -> dict[str, Any]:
    """The object in a JSON or YAML file; raises `LoadError`."""
    try:
        size = path.stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise LoadError(f"{path}: {size:,} bytes; a config has at most {_MAX_CONFIG_BYTES:,}")
        text = path.read_text(encoding="utf-8")
        config = _yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
        check_plain(config)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path}: unreadable config: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path}: holds a {type(config).__name__}, expected an object")
    return config


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            """Keys that are merged multiply: twenty lines of them fill the memory."""
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise ValueError("merge keys (<<) are not read")
            super().flatten_mapping(node)

    if len(text) > _MAX_YAML:
        raise ValueError(f"{len(text):,} characters; YAML has at most {_MAX_YAML:,}")
    try:
        return yaml.load(text, Loader)
    except Exception as error:  # a malformed number or date raises nearly anything
        message = str(error).replace("\n", " ")
        raise ValueError(f"{type(error).__name__}: {message}") from error
