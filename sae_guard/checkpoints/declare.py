"""The model and hook point that a checkpoint declares, by its config and its path; no torch."""

from __future__ import annotations

from pathlib import Path

from sae_guard.checkpoints.declarations import Declaration
from sae_guard.checkpoints.formats import FORMATS
from sae_guard.checkpoints.locate import files_at
from sae_guard.errors import LoadError

__all__ = ["Declaration", "declare"]


def declare(path: Path, name: str | None = None) -> Declaration:
    """Return the model and hook point that a checkpoint declares.

    Args:
        path: A file or a folder.
        name: Name of the SAE in a file that holds several.

    Raises:
        LoadError: The path does not exist, or the config is unreadable.
    """
    if not path.exists():
        raise LoadError(f"{path}: no such checkpoint")
    files = files_at(path, name)
    if files is None:
        return Declaration()
    # Stable: others keep their order.
    formats = sorted(FORMATS, key=lambda format: not format.declares_first)
    declarations = (format.declare(files) for format in formats)
    return next((d for d in declarations if d is not None), Declaration())
