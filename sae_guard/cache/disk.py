"""Atomic writing and removing of files, in folders that other processes can remove at any time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from sae_guard.errors import InfrastructureError

T = TypeVar("T")

# An attempt fails only if another process removes the folder just between its creation and its use.
_ATTEMPTS = 100


class CacheError(InfrastructureError):
    """The cache cannot be used; what it would have saved can be computed without it."""


@contextmanager
def as_cache_error(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `CacheError` that names the path and the reason."""
    try:
        yield
    except OSError as error:
        culprit = error.filename or path
        reason = error.strerror or error
        raise CacheError(f"the cache cannot use {culprit}: {reason}") from error


def retry_if_removed(action: Callable[[], T], path: Path) -> T:
    """Return the result of an action, repeated while another process removes its folders.

    Args:
        action: Creates the folders that it needs, then uses them.
        path: File or folder that the action is about, for messages.

    Raises:
        CacheError: The action fails for another reason, or at every attempt.
    """
    with as_cache_error(path):
        for _ in range(_ATTEMPTS - 1):
            # FileExistsError: mkdir raises it for a folder that vanishes while mkdir looks at it.
            with suppress(FileNotFoundError, FileExistsError):
                return action()
        return action()


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], partial: Path, label: str
) -> None:
    """Write a file beside its place and rename it, so that no process sees a part of it.

    A writer that is killed leaves the old file, and a partial one that the next writer of this file
    removes. Of two writers at the same time the last one wins. If the folder is removed in the
    meantime, no file is written and no error is raised.

    Args:
        path: Path of the file. A folder at this path is removed.
        write: Function that writes into a new empty file.
        partial: Folder of files that are being written, on the same file system.
        label: Name of this file in ``partial``.

    Raises:
        CacheError: A folder or a file cannot be written.
    """

    def open_partial() -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(parents=True, exist_ok=True)
        for orphan in partial.glob(f".{label}.{'?' * 32}"):  # 32 digits of a uuid
            orphan.unlink(missing_ok=True)
        return (partial / f".{label}.{uuid4().hex}").open("xb")

    file = retry_if_removed(open_partial, path)
    try:
        with as_cache_error(path):
            with file:
                write(file)
            if path.is_dir():
                remove(path)
            with suppress(FileNotFoundError):
                os.replace(file.name, path)
    finally:
        with suppress(OSError):
            os.unlink(file.name)  # not there after the rename


def remove(path: Path) -> None:
    """Remove a file, or a folder as far as possible; do nothing if there is none.

    Raises:
        OSError: The file cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder, ignoring those that vanish in the meantime."""
    total = 0
    # lstat: a link counts with its own size, since what it points to is not in the cache.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
