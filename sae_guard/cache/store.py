"""The cache: entries with files of tensors, of which the least recently used are evicted.

    ROOT/CACHEDIR.TAG
    ROOT/v1/KEY/entry.json         description of the entry; modified at its last use
    ROOT/v1/KEY/files/NAME.safetensors
    ROOT/v1/KEY/partial/…          files that are being written, or were when a writer was killed
    ROOT/v1/KEY/locks/NAME.lock

A file appears by one rename and an entry is removed by one rename, so no process sees a part of
either. A file that another process removes in the meantime is computed again. Locks avoid double
work; results do not depend on them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from filelock import FileLock

from sae_guard.cache import tensor_file
from sae_guard.cache.disk import as_cache_error, remove, retry_if_removed, size, write_atomically
from sae_guard.cache.root import is_tagged, tag

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_BYTES = 20 * 2**30  # 20 GiB
VERSION = "v1"
"""Version of the layout and the file format; another version has a folder of its own."""

_KEY = re.compile(r"[0-9a-f]{16,64}")
_NAME = re.compile(r"(?=.{1,200}\Z)\w[\w.=@+-]*(/\w[\w.=@+-]*)*", re.ASCII)


@dataclass(frozen=True)
class EntryInfo:
    """Key, description, size and last use of an entry on disk."""

    key: str
    description: Mapping[str, Any]
    """JSON object for people to read; empty if ``entry.json`` is lost or damaged."""
    bytes: int
    """Size of all its files."""
    last_used: float
    """Time of the last use, in seconds since the epoch."""


@dataclass(frozen=True)
class Cache:
    """A folder of entries, which `Entry.reserve` keeps within ``limit`` bytes."""

    root: Path
    limit: int = DEFAULT_BYTES

    def entry(self, key: str, description: Mapping[str, Any]) -> Entry:
        """Return the entry of a key, creating it if there is none, and mark it as used now.

        Args:
            key: Hash of everything that the contents depend on, 16 to 64 hexadecimal digits.
            description: JSON object for people to read.

        Raises:
            CacheError: The folder cannot be written, or has other files than a cache.
            ValueError: The key is malformed.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a key; allowed: 16 to 64 digits of 0-9a-f")
        entry = Entry(self, key, description)
        entry.use()
        return entry

    def entries(self) -> list[EntryInfo]:
        """List the entries, least recently used first.

        Raises:
            CacheError: The folder cannot be read, or has other files than a cache.
        """
        is_tagged(self.root)  # raises for a folder of something else
        # An entry is None if another process removed it since the folder was listed.
        entries = [_entry_info(folder) for folder in self._folders() if _KEY.fullmatch(folder.name)]
        existing = [entry for entry in entries if entry is not None]
        return sorted(existing, key=lambda entry: (entry.last_used, entry.key))

    def clear(self) -> int:
        """Remove all entries, including those in use, and return their size in bytes.

        Raises:
            CacheError: The folder cannot be changed, or has other files than a cache.
        """
        entries = self.entries()
        self._evict(entries)
        return sum(entry.bytes for entry in entries)

    def _evict(self, entries: Iterable[EntryInfo]) -> None:
        """Remove entries, and the renamed folders that killed processes have not removed."""
        for entry in entries:
            folder = self.root / VERSION / entry.key
            # Renamed to a hidden name first, so that other processes miss all of the entry at once.
            with as_cache_error(folder), suppress(FileNotFoundError):
                folder.rename(folder.with_name(f".{folder.name}.{uuid4().hex}"))
        for folder in self._folders():
            if folder.name.startswith("."):
                with suppress(OSError):
                    remove(folder)

    def _folders(self) -> list[Path]:
        """List the folders of entries, and hidden ones that are being removed."""
        with as_cache_error(self.root):
            try:
                return list((self.root / VERSION).iterdir())
            except FileNotFoundError:
                return []


@dataclass(frozen=True)
class Entry:
    """One entry of the cache: files of named tensors, for example of one model and corpus.

    File names have up to 200 characters: parts joined by ``/``, each of letters, digits and
    ``_.=@+-``, starting with a letter, digit or ``_``. Methods raise `ValueError` for other names.
    """

    cache: Cache
    key: str
    description: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the entry."""
        return self.cache.root / VERSION / self.key

    def has(self, name: str) -> bool:
        """Return whether the file exists; it can still be damaged, or be removed before `read`."""
        return os.path.isfile(self._path(name))

    def read(self, name: str) -> tensor_file.Tensors | None:
        """Load a file of tensors into memory and verify its checksum.

        Args:
            name: Name of the file.

        Returns:
            The tensors; None if there is no such file or it is damaged. A damaged file is removed.
        """
        path = self._path(name)
        contents = None
        with suppress(OSError):
            if not path.is_file():  # also if it is a folder, or a pipe, on which open would block
                return None
            with path.open("rb") as file:
                contents = tensor_file.read(file, f"{self.key}/{name}")
                # samestat: another process may have replaced the damaged file by a good one.
                if contents is None and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    remove(path)
        if contents is not None:
            # The entry counts as used. A read-only cache can be read without that.
            with suppress(OSError):
                os.utime(self.folder / "entry.json")
        return contents

    def write(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write a file of tensors atomically; if the entry is removed meanwhile, write nothing.

        Args:
            name: Name of the file.
            tensors: Name → tensor on any device.
            metadata: Text that is stored with the tensors.

        Raises:
            CacheError: The file cannot be written, for example on a full disk.
            ValueError: A name, a metadata key or a dtype is not allowed (see `tensor_file.write`).
        """
        path, label = self._path(name), f"{self.key}/{name}"
        self._write(path, lambda file: tensor_file.write(file, label, tensors, metadata or {}))
        self.use()

    def remove(self, name: str) -> None:
        """Remove a file, if there is one.

        Raises:
            CacheError: The file cannot be removed.
        """
        with as_cache_error(path := self._path(name)):
            remove(path)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock that excludes other processes; the kernel frees it if its holder dies.

        If the entry is removed meanwhile, a second process can get the lock too: it avoids double
        work, but results must not depend on it.

        Args:
            name: Name of the file whose computation is locked.

        Raises:
            CacheError: The lock file cannot be written.
        """
        self._path(name)  # for the check of the name
        # Before the file of the lock: the tag has to be the first file of a cache.
        tag(self.cache.root)
        path = self.folder / "locks" / f"{name}.lock"
        lock = FileLock(path)

        def acquire() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()

        retry_if_removed(acquire, path)
        try:
            yield
        finally:
            lock.release()

    def reserve(self, n_bytes: int) -> bool:
        """Make room in the cache for ``n_bytes`` more in this entry.

        Other entries are evicted, the least recently used first. This reads the sizes of all files
        in the cache, so call it once for many files.

        Args:
            n_bytes: Bytes that will be written.

        Returns:
            Whether there is room now. If this entry alone would exceed the limit, the result is
            False and nothing is evicted.

        Raises:
            CacheError: The cache cannot be read or changed.
        """
        entries = self.cache.entries()
        excess = n_bytes + sum(entry.bytes for entry in entries) - self.cache.limit
        evicted = []
        for entry in entries:
            if excess > 0 and entry.key != self.key:
                evicted.append(entry)
                excess -= entry.bytes
        if excess > 0:
            return False
        self.cache._evict(evicted)
        return True

    def use(self) -> None:
        """Mark the entry as used now, and write its description if that is lost or differs."""
        path = self.folder / "entry.json"
        text = json.dumps(self.description, indent=2, ensure_ascii=False)
        # A path that is not UTF-8 has surrogates, which cannot be encoded but by a JSON escape.
        content = text.encode(errors="backslashreplace")
        with suppress(OSError):
            if path.read_bytes() == content:
                os.utime(path)
                return
        self._write(path, lambda file: file.write(content))

    def _write(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Write a file of the entry atomically, into a folder that is tagged as a cache."""
        tag(self.cache.root)
        # Unique in the one folder of partial files: names of cached files contain no comma.
        label = str(path.relative_to(self.folder)).replace(os.sep, ",")
        write_atomically(path, write, self.folder / "partial", label)

    def _path(self, name: str) -> Path:
        """Return the path of a file; raise `ValueError` for a name that is not allowed."""
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a name of a file in the cache; allowed: parts of letters, digits "
                "and _.=@+- joined by /"
            )
        return self.folder / "files" / f"{name}.safetensors"


def _entry_info(folder: Path) -> EntryInfo | None:
    """Return the entry in a folder; None if another process has removed it."""
    file = folder / "entry.json"
    description = None
    with suppress(OSError, ValueError, RecursionError):
        description = json.loads(file.read_bytes())
    # Without entry.json the folder's own time is the best estimate of the last use.
    for path in (file, folder):
        with suppress(OSError):
            last_used = path.stat().st_mtime
            valid_description = description if isinstance(description, dict) else {}
            return EntryInfo(folder.name, valid_description, size(folder), last_used)
    return None
