"""`Folder`: entries of a few files each, written at once and never changed, local or by fsspec."""

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
"""Folder of the entries that are being written; it is in the same file system as they will be."""
_ABANDONED = 24 * 3600.0
"""Seconds after which a partial entry is taken for one whose writer was killed."""


@dataclass(frozen=True)
class Folder:
    """A folder of entries. An entry is a folder of a few files, of which the head is written last.

    An entry without a head does not exist yet: readers ignore it.
    """

    url: str
    """Path, or a URL that fsspec knows."""

    @classmethod
    def of_entry(cls, entry: str) -> tuple[Folder, str]:
        """Return the folder of an entry and the entry's name, from its path or URL."""
        path = entry if "://" in entry else Path(entry).as_posix()
        parent, _, name = path.rstrip("/").rpartition("/")
        return cls(parent), name

    def prepare(self) -> None:
        """Create the folder if it is local, or check that fsspec knows the URL.

        Raises:
            HistoryError: The folder cannot be created.
            SetupError: fsspec does not know the URL.
        """
        local = self._local
        if local is None:
            self._remote()
            return
        with _os_errors(local):
            local.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, files: Mapping[str, bytes], head: str) -> str:
        """Write an entry: complete and on disk when this returns, and not visible before.

        Args:
            name: Name of the entry.
            files: Name → content of its files.
            head: Name of the file to write last.

        Returns:
            The path of the entry, or its URL.

        Raises:
            HistoryError: There is an entry of this name, or it cannot be written.
            SetupError: fsspec does not know the URL.
        """
        local = self._local
        if local is not None:
            with _os_errors(local / name):
                _write_local(local, name, files)
            return self.path_of(name)
        fs, root = self._remote()
        path = f"{root}/{name}"
        with _remote_errors(path):
            if fs.exists(f"{path}/{head}"):
                raise HistoryError(f"{path} is there already; nothing is overwritten")
            # Object stores cannot rename a folder: that the head comes last makes it atomic.
            for file in sorted(files, key=lambda file: file == head):  # False before True
                _put(fs, f"{path}/{file}", files[file])
        return self.path_of(name)

    def path_of(self, name: str) -> str:
        """Return the path of an entry, or its URL."""
        local = self._local
        return f"{self.url}/{name}" if local is None else str(local / name)

    def heads(self, head: str) -> Iterator[tuple[str, str, bytes]]:
        """Yield name, path or URL, and content of the head of each entry, in the order of names.

        Raises:
            HistoryError: The folder or a head cannot be read.
            SetupError: fsspec does not know the URL.
        """
        local = self._local
        if local is not None:
            yield from _local_heads(local, head)
            return
        fs, root = self._remote()
        with _remote_errors(root):
            fs.invalidate_cache()  # fsspec would list the folder as it was some time ago
            paths = [path for path in _list_files(fs, root) if path.endswith(f"/{head}")]
            # In one call: object stores are read concurrently.
            contents = fs.cat(paths) if paths else {}
        for path in sorted(contents):
            name = path.removesuffix(f"/{head}").rpartition("/")[2]
            yield name, f"{self.url}/{name}", contents[path]

    def read(self, name: str, file: str) -> bytes:
        """Read a file of an entry.

        Raises:
            HistoryError: The file cannot be read.
            SetupError: fsspec does not know the URL.
        """
        local = self._local
        if local is not None:
            with _os_errors(local / name / file):
                return (local / name / file).read_bytes()
        fs, root = self._remote()
        with _remote_errors(f"{root}/{name}/{file}"):
            data: bytes = fs.cat_file(f"{root}/{name}/{file}")
            return data

    @property
    def _local(self) -> Path | None:
        """Path of a local folder; None if it is remote."""
        if "://" not in self.url:
            return Path(self.url)
        if not self.url.startswith(("file://", "local://")):
            return None
        return Path(self._remote()[1])

    def _remote(self) -> tuple[Any, str]:
        """Return the file system of fsspec, and the path of the folder in it."""
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise SetupError(f"{self.url}: {error}") from None
        return fs, root.rstrip("/")


@contextmanager
def _os_errors(path: object) -> Iterator[None]:
    """Raise an `OSError` as a `HistoryError` with the path and the reason."""
    try:
        yield
    except OSError as error:
        file = error.filename or path
        missing = isinstance(error, FileNotFoundError)  # fsspec raises it without a reason
        reason = error.strerror or (os.strerror(errno.ENOENT) if missing else error)
        raise HistoryError(f"{file}: {reason}") from error


@contextmanager
def _remote_errors(path: str) -> Iterator[None]:
    """Raise any error of fsspec and of the clients behind it as a `HistoryError` with the path."""
    try:
        with _os_errors(path):
            yield
    except HistoryError:
        raise
    # Missing credentials, lost connections and so on: each client has its own types.
    except Exception as error:
        raise HistoryError(f"{path}: {type(error).__name__}: {error}") from error


def _write_local(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write all files into a temporary folder, and move it into place with one rename."""
    (folder / _PARTIAL).mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder / _PARTIAL)
    # A random name, because several processes may write at once.
    partial = folder / _PARTIAL / uuid4().hex
    partial.mkdir()
    try:
        for file, data in files.items():
            with (partial / file).open("xb") as opened:
                opened.write(data)
                opened.flush()
                # Before the rename: a crash must not leave a complete entry with empty files.
                os.fsync(opened.fileno())
        _sync(partial)
        # The rename would fail too, with an error that nobody understands.
        if (folder / name).exists():
            raise HistoryError(f"{folder / name} is there already; nothing is overwritten")
        partial.rename(folder / name)
        _sync(folder)
        _sync(folder.parent)  # the folder itself may be new
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the partial entries of killed writers."""
    for partial in folder.iterdir():
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush the list of files of a folder to disk, to survive a power failure; POSIX only."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _local_heads(folder: Path, head: str) -> Iterator[tuple[str, str, bytes]]:
    with _os_errors(folder):
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except FileNotFoundError:
            return
    for name in names:
        entry = os.path.join(folder, name)
        with _os_errors(entry):
            try:
                with open(os.path.join(entry, head), "rb") as file:
                    data = file.read()
            except (FileNotFoundError, NotADirectoryError):  # no entry, or not yet one
                continue
        yield name, entry, data


def _list_files(fs: Any, root: str) -> list[str]:
    try:
        paths: list[str] = fs.find(root)
    except FileNotFoundError:
        return []
    return paths


def _put(fs: Any, path: str, data: bytes) -> None:
    try:
        fs.pipe_file(path, data)
    except FileNotFoundError:  # unlike object stores, this file system needs the folder first
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data)
