"""Which checkpoints a pattern names, which files they are, and what to call them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sae_guard.checkpoints.files import CheckpointFiles, read_files
from sae_guard.checkpoints.formats import FORMATS
from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded

SUFFIXES = (".pt", ".pth", ".safetensors", ".npz", ".pkl", ".pkl.gz")
"""Of the containers that `tensor_files` reads, whatever the format."""
_FOLDERS = sorted((f for format in FORMATS for f in format.folders), key=lambda f: f.rank)
_BESIDE = sorted((b for format in FORMATS for b in format.beside), key=lambda b: b.rank)


def files_at(path: Path, name: str | None = None) -> CheckpointFiles | None:
    """Read the config of the checkpoint at ``path``; None if it does not look like one.

    Args:
        path: A file or a folder.
        name: Which SAE, where a file holds several.

    Raises:
        LoadError: The config is unreadable.
    """
    paths = _paths(path)
    return None if paths is None else read_files(path, *paths, name)


def _paths(path: Path) -> tuple[Path, Path | None] | None:
    """Find the weights and the config of the checkpoint at ``path``."""
    if path.is_dir():
        folders = (layout.files_in(path) for layout in _FOLDERS)
        return next((paths for paths in folders if paths is not None), None)
    if path.is_file() and path.name.endswith(SUFFIXES):
        configs = (beside.file_of(path) for beside in _BESIDE)
        return path, next((config for config in configs if config is not None), None)
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
    whole = _paths(path.parent) if path.is_file() else None
    return path.parent if whole and path in whole else path


def is_checkpoint(path: Path) -> bool:
    """Whether the path looks like a checkpoint that can be read."""
    return _paths(path) is not None


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
