"""The cache's folders: entries, the least recently used of which make room for new ones.

    ROOT/CACHEDIR.TAG
    ROOT/v1/KEY/entry.json         what the entry is; its modification time is the last use
    ROOT/v1/KEY/files/NAME.safetensors
    ROOT/v1/KEY/partial/…          files being written, and what killed writers left
    ROOT/v1/KEY/locks/NAME.lock

A file appears by one rename and an entry goes by one rename, so no process sees half of either.
Whatever another process removes meanwhile was a cached copy: it is computed anew. Locks save work;
nothing depends on them.
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
from sae_guard.cache.disk import as_cache_error, insist, place, remove, size
from sae_guard.cache.root import check, tag

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_BYTES = 20 * 2**30
VERSION = "v1"
"""Of names and files; a later format has a folder of its own."""

_KEY = re.compile(r"[0-9a-f]{16,64}")
_NAME = re.compile(r"(?=.{1,200}\Z)\w[\w.=@+-]*(/\w[\w.=@+-]*)*", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """An entry as it lies on disk."""

    key: str
    description: Mapping[str, Any]
    """Empty where ``entry.json`` is lost or damaged."""
    bytes: int
    last_used: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Cache:
    """A folder of entries that hold at most ``limit`` bytes, as far as `Entry.reserve` is asked."""

    root: Path
    limit: int = DEFAULT_BYTES

    def entry(self, key: str, description: Mapping[str, Any]) -> Entry:
        """The entry of this key, made where there is none, and used now.

        Args:
            key: The hash of everything that the contents depend on, 16 to 64 hexadecimal digits.
            description: JSON for people to read.

        Raises:
            CacheError: The folder cannot be written, or holds other things than a cache.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: 16 to 64 digits of 0-9a-f")
        entry = Entry(self, key, description)
        entry.use()
        return entry

    def entries(self) -> list[Stored]:
        """What the cache holds, least recently used first; raises `CacheError` like `entry`."""
        check(self.root)
        found = [_stored(folder) for folder in self._folders() if _KEY.fullmatch(folder.name)]
        kept = [stored for stored in found if stored is not None]
        return sorted(kept, key=lambda stored: (stored.last_used, stored.key))

    def clear(self) -> int:
        """Remove all entries, also under who uses them; the number of bytes they held.

        Raises:
            CacheError: The folder cannot be changed, or holds other things than a cache.
        """
        stored = self.entries()
        self._evict(stored)
        return sum(entry.bytes for entry in stored)

    def _evict(self, entries: Iterable[Stored]) -> None:
        """Remove entries, each by one rename, and what killed evictors left."""
        for stored in entries:
            folder = self.root / VERSION / stored.key
            with as_cache_error(folder), suppress(FileNotFoundError):
                folder.rename(folder.with_name(f".{folder.name}.{uuid4().hex}"))
        for folder in self._folders():
            if folder.name.startswith("."):
                with suppress(OSError):
                    remove(folder)

    def _folders(self) -> list[Path]:
        with as_cache_error(self.root):
            try:
                return list((self.root / VERSION).iterdir())
            except FileNotFoundError:
                return []


@dataclass(frozen=True)
class Entry:
    """Files of named tensors, such as those of one model and corpus.

    Names are relative: letters, digits and ``_.=@+-`` in parts that begin with a letter, digit or
    ``_``, joined by ``/``; another name is a `ValueError`.
    """

    cache: Cache
    key: str
    description: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.cache.root / VERSION / self.key

    def has(self, name: str) -> bool:
        """Whether there is such a file; `read` may yet find it damaged or gone."""
        return os.path.isfile(self._path(name))

    def read(self, name: str) -> tensor_file.Tensors | None:
        """The file's tensors in memory, every bit checked; None if it is not there.

        A damaged file is removed and reads as None, so that it is computed anew.
        """
        path = self._path(name)
        found = None
        with suppress(OSError):
            if not path.is_file():  # also a folder, or a pipe that would block
                return None
            with path.open("rb") as file:
                found = tensor_file.read(file, f"{self.key}/{name}")
                # Not a good file that took the place of the damaged one meanwhile.
                if found is None and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    remove(path)
        if found is not None:
            with suppress(OSError):
                os.utime(self.folder / "entry.json")
        return found

    def write(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Keep the tensors; the file appears whole, or not at all where the entry was removed.

        Raises:
            CacheError: The file cannot be written: a full disk, a folder that is read-only.
            ValueError: A name, a metadata key or a dtype cannot be kept (`tensor_file.write`).
        """
        path, label = self._path(name), f"{self.key}/{name}"
        self._place(path, lambda file: tensor_file.write(file, label, tensors, metadata or {}))
        self.use()

    def remove(self, name: str) -> None:
        """Remove the file, if there is one; raises `CacheError`."""
        with as_cache_error(path := self._path(name)):
            remove(path)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock that no other process holds; the kernel frees it when its holder dies.

        Where the entry is removed meanwhile, a second process may take the lock: it guards against
        double work, not against wrong results. Raises `CacheError`.
        """
        self._path(name)
        tag(self.cache.root)
        path = self.folder / "locks" / f"{name}.lock"
        lock = FileLock(path)

        def acquire() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()

        insist(acquire, path)
        try:
            yield
        finally:
            lock.release()

    def reserve(self, n_bytes: int) -> bool:
        """Make room for ``n_bytes`` more in this entry, at the cost of the least recently used.

        It walks the whole cache: ask once for many files. False, and nothing is removed, where
        this entry alone would then be beyond the limit. Raises `CacheError`.
        """
        entries = self.cache.entries()
        excess = n_bytes + sum(stored.bytes for stored in entries) - self.cache.limit
        evicted = []
        for stored in entries:
            if excess > 0 and stored.key != self.key:
                evicted.append(stored)
                excess -= stored.bytes
        if excess > 0:
            return False
        self.cache._evict(evicted)
        return True

    def use(self) -> None:
        """Set the time of the last use, and write the description where it is lost."""
        path = self.folder / "entry.json"
        told = json.dumps(self.description, indent=2, ensure_ascii=False)
        text = told.encode(errors="backslashreplace")  # which JSON reads: paths may be no UTF-8
        with suppress(OSError):
            if path.read_bytes() == text:
                os.utime(path)
                return
        self._place(path, lambda file: file.write(text))

    def _place(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        tag(self.cache.root)
        label = str(path.relative_to(self.folder)).replace(os.sep, ",")
        place(path, write, self.folder / "partial", label)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file in the cache")
        return self.folder / "files" / f"{name}.safetensors"


def _stored(folder: Path) -> Stored | None:
    """The entry in this folder; None if it is gone."""
    file = folder / "entry.json"
    description = None
    with suppress(OSError, ValueError, RecursionError):
        description = json.loads(file.read_bytes())
    for path in (file, folder):
        with suppress(OSError):
            last_used = path.stat().st_mtime
            known = description if isinstance(description, dict) else {}
            return Stored(folder.name, known, size(folder), last_used)
    return None
