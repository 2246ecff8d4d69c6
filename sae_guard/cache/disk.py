"""Files that appear and vanish whole, in folders that other processes remove at any moment."""

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

# Another process must remove the folder as often, each time between two calls of ours.
_ATTEMPTS = 100


class CacheError(InfrastructureError):
    """The cache cannot be used; what it would have saved can be computed without it."""


@contextmanager
def as_cache_error(path: Path) -> Iterator[None]:
    """An `OSError` as a `CacheError` that names the path and the reason."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise CacheError(f"the cache cannot use {where}: {error.strerror or error}") from error


def insist(make: Callable[[], T], path: Path) -> T:
    """What ``make`` gives, which makes folders first: again where they were removed under it.

    Raises:
        CacheError: It fails for another reason, or every time.
    """
    with as_cache_error(path):
        for _ in range(_ATTEMPTS - 1):
            # mkdir says "exists" of a folder that was there and is gone.
            with suppress(FileNotFoundError, FileExistsError):
                return make()
        return make()


def place(path: Path, write: Callable[[BinaryIO], object], partial: Path, label: str) -> None:
    """Make the file at ``path`` what ``write`` writes, by one rename.

    A process killed meanwhile leaves the file that was there, and a partial one that the next to
    place this file removes. So does one that places it at the same time: the last one wins. Where
    the folder is removed meanwhile nothing is placed, and that is no error.

    Args:
        path: Of the file. A folder in its place is removed.
        write: Gets a new empty file.
        partial: Folder of files being written, on the same file system.
        label: Names this file among them.

    Raises:
        CacheError: A folder or a file cannot be written.
    """

    def opened() -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(parents=True, exist_ok=True)
        for orphan in partial.glob(f".{label}.{'?' * 32}"):
            orphan.unlink(missing_ok=True)
        return (partial / f".{label}.{uuid4().hex}").open("xb")

    file = insist(opened, path)
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
            os.unlink(file.name)


def remove(path: Path) -> None:
    """Remove a file, or a folder as far as possible, if there is one; raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size(folder: Path) -> int:
    """Bytes of all files below the folder, of those that are still there."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
