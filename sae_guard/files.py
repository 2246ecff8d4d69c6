"""Find files by the paths that people write, and write files whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def expanded(text: str) -> Path:
    """With the home folder for ``~``; a ``~name`` that nobody is called stays, and is not found.

    `Path.expanduser` raises there.
    """
    return Path(os.path.expanduser(text))


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write the whole file or none of it, through links to it and with the mode that it had.

    Args:
        path: The file; its folder exists.
        content: The bytes, or what writes them into an open file.

    Raises:
        OSError: The file cannot be written. Nothing has changed then.
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
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
