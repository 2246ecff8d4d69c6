"""Folders of files that appear whole and are never written again, here or behind any fsspec URL."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sae_guard.errors import SetupError
from sae_guard.history.record import HistoryError

_PARTIAL = ".partial"
"""Folder of entries being written, among the others and so on the same file system."""
_ABANDONED = 24 * 3600.0
"""Seconds after which what is still partial is what a killed writer left."""


@dataclass(frozen=True)
class Folder:
    """A folder of entries: folders of a few files, one of which is the head and written last."""

    url: str
    """A path, or a URL that fsspec knows."""

    def prepare(self) -> None:
        """Make the folder, or see that the URL is known; raises like `write`."""
        local = self._local
        if local is None:
            self._remote()
            return
        with _named(local):
            local.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, files: Mapping[str, bytes], head: str) -> str:
        """Make an entry; it is there, on disk, when this returns, and whole or not at all before.

        Returns its path, or its URL where it is elsewhere.

        Raises:
            HistoryError: There is one of this name, or it cannot be written.
            SetupError: fsspec does not know the URL.
        """
        local = self._local
        if local is not None:
            with _named(local / name):
                _write_here(local, name, files)
            return self.path_of(name)
        fs, root = self._remote()
        path = f"{root}/{name}"
        with _named_there(path):
            if fs.exists(f"{path}/{head}"):
                raise HistoryError(f"{path} is there already; nothing is overwritten")
            for file in sorted(files, key=lambda file: file == head):
                _put(fs, f"{path}/{file}", files[file])
        return self.path_of(name)

    def path_of(self, name: str) -> str:
        """The path of an entry, or its URL where it is elsewhere."""
        local = self._local
        return f"{self.url}/{name}" if local is None else str(local / name)

    def heads(self, head: str) -> Iterator[tuple[str, str, bytes]]:
        """Name, path or URL, and head of each entry, by name; one without head is none yet."""
        local = self._local
        if local is not None:
            yield from _heads_here(local, head)
            return
        fs, root = self._remote()
        with _named_there(root):
            fs.invalidate_cache()
            found = [path for path in _listed(fs, root) if path.endswith(f"/{head}")]
            contents = fs.cat(found) if found else {}
        for path in sorted(contents):
            name = path.removesuffix(f"/{head}").rpartition("/")[2]
            yield name, f"{self.url}/{name}", contents[path]

    def read(self, name: str, file: str) -> bytes:
        """A file of an entry; raises `HistoryError`."""
        local = self._local
        if local is not None:
            with _named(local / name / file):
                return (local / name / file).read_bytes()
        fs, root = self._remote()
        with _named_there(f"{root}/{name}/{file}"):
            data: bytes = fs.cat_file(f"{root}/{name}/{file}")
            return data

    @property
    def _local(self) -> Path | None:
        if "://" not in self.url:
            return Path(self.url)
        if not self.url.startswith(("file://", "local://")):
            return None
        return Path(self._remote()[1])

    def _remote(self) -> tuple[Any, str]:
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise SetupError(f"{self.url}: {error}") from None
        return fs, root.rstrip("/")


@contextmanager
def _named(path: object) -> Iterator[None]:
    """An `OSError` as one that names the path and the reason."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        missing = isinstance(error, FileNotFoundError)  # which fsspec raises with a path alone
        why = error.strerror or (os.strerror(errno.ENOENT) if missing else error)
        raise HistoryError(f"{where}: {why}") from error


@contextmanager
def _named_there(path: str) -> Iterator[None]:
    """The same of what is elsewhere, where errors of clients of all kinds come through fsspec."""
    try:
        with _named(path):
            yield
    except HistoryError:
        raise
    except Exception as error:  # no credentials, no connection: of no common type
        raise HistoryError(f"{path}: {type(error).__name__}: {error}") from error


def _write_here(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    """All files in a folder of their own, which one rename puts in its place."""
    (folder / _PARTIAL).mkdir(parents=True, exist_ok=True)
    _sweep(folder / _PARTIAL)
    partial = folder / _PARTIAL / uuid4().hex
    partial.mkdir()
    try:
        for file, data in files.items():
            with (partial / file).open("xb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
        _sync(partial)
        if (folder / name).exists():  # to rename onto a full folder fails, but with odd words
            raise HistoryError(f"{folder / name} is there already; nothing is overwritten")
        partial.rename(folder / name)
        _sync(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left."""
    for partial in folder.iterdir():
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)


def _sync(folder: Path) -> None:
    """What is in the folder is there after a power failure too, where the system can say so."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _heads_here(folder: Path, head: str) -> Iterator[tuple[str, str, bytes]]:
    with _named(folder):
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except FileNotFoundError:
            return
    for name in names:
        entry = os.path.join(folder, name)
        with _named(entry):
            try:
                with open(os.path.join(entry, head), "rb") as file:
                    data = file.read()
            except (FileNotFoundError, NotADirectoryError):
                continue
        yield name, entry, data


def _listed(fs: Any, root: str) -> list[str]:
    try:
        found: list[str] = fs.find(root)
    except FileNotFoundError:
        return []
    return found


def _put(fs: Any, path: str, data: bytes) -> None:
    try:
        fs.pipe_file(path, data)
    except FileNotFoundError:  # file systems that do not make folders by themselves
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data)
