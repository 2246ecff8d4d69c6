"""Expand paths that users write, and write files atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def expanded(text: str) -> Path:
    """Return the path with ``~`` replaced by the home folder.

    A ``~name`` of an unknown user stays as it is, where `Path.expanduser` would raise.
    """
    return Path(os.path.expanduser(text))


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file atomically, with the mode of the file that it replaces.

    If the path is a symbolic link, its target is written.

    Args:
        path: File in an existing folder.
        content: Bytes of the file, or a function that writes them into an open file.

    Raises:
        OSError: The file cannot be written; it is unchanged.
    """
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except BaseException:  # Ctrl+C leaves no partial file either
        partial.unlink(missing_ok=True)
        raise
