"""Search for checkpoints: the paths that a pattern names, their files and their labels."""

from __future__ import annotations

import glob
from pathlib import Path

from sae_guard.checkpoints.files import CheckpointFiles, read_files
from sae_guard.checkpoints.formats import FORMATS
from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded

SUFFIXES = (".pt", ".pth", ".safetensors", ".npz", ".pkl", ".pkl.gz")
"""Suffixes of the containers that `tensor_files` reads."""
_FOLDERS = sorted((f for format in FORMATS for f in format.folders), key=lambda f: f.rank)
_CONFIG_LOCATIONS = sorted(
    (location for format in FORMATS for location in format.config_locations), key=lambda c: c.rank
)


def files_at(path: Path, name: str | None = None) -> CheckpointFiles | None:
    """Read the config of the checkpoint at ``path``; None if it does not look like a checkpoint.

    Args:
        path: A file or a folder.
        name: Name of the SAE in a file that holds several.

    Raises:
        LoadError: The config is unreadable.
    """
    paths = _paths(path)
    return None if paths is None else read_files(path, *paths, name)


def _paths(path: Path) -> tuple[Path, Path | None] | None:
    """Return the weights and the config of the checkpoint at ``path``; None without one."""
    if path.is_dir():
        folders = (layout.files_in(path) for layout in _FOLDERS)
        return next((paths for paths in folders if paths is not None), None)
    if path.is_file() and path.name.endswith(SUFFIXES):
        configs = (location.file_of(path) for location in _CONFIG_LOCATIONS)
        return path, next((config for config in configs if config is not None), None)
    return None


def find(pattern: str, base: Path) -> list[Path]:
    """Return the checkpoints that a path or a glob names, sorted.

    Args:
        pattern: A path or a glob.
        base: Folder that relative patterns start from.

    Raises:
        SetupError: There is no such checkpoint.
    """
    target = base / expanded(pattern)
    if target.exists():  # a path may contain the characters of a glob
        return [_checkpoint_path(target)]
    matches = {_checkpoint_path(Path(name)) for name in glob.glob(str(target), recursive=True)}
    if not matches:
        siblings = target.parent.iterdir() if target.parent.is_dir() else []
        hint = allowed(target.name, [path.name for path in siblings])
        raise SetupError(f"no checkpoint at {target}; in {target.parent}: {hint}")
    return sorted(path for path in matches if is_checkpoint(path)) or sorted(matches)


def _checkpoint_path(path: Path) -> Path:
    """Return the folder where a file is a part of a folder checkpoint, else the path itself."""
    folder_files = _paths(path.parent) if path.is_file() else None
    return path.parent if folder_files and path in folder_files else path


def is_checkpoint(path: Path) -> bool:
    """Return whether the path looks like a checkpoint that can be read."""
    return _paths(path) is not None
