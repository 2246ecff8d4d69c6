"""Limits of the memory that reading a file may allocate, and safe opening of files; no torch."""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MIB = 2**20
_CHUNK = MIB
_MAX_READS = 500_000
"""Largest number of reads of a pickle: a byte of it may become an object of 200 bytes."""


def unpacked_limit(size: int) -> int:
    """Return the largest unpacked size of ``size`` compressed bytes; weights hardly compress."""
    return max(64 * MIB, 16 * size)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file; yield it and its size in bytes.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The path is no regular file: reading a pipe or a device may never end.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer before fstat can tell its kind.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file, but a folder, pipe or device")
        yield file, status.st_size


_BINARY = getattr(os, "O_BINARY", 0)  # Windows


def gunzipped(file: BinaryIO, size: int) -> bytes:
    """Return the content of a gzip file of ``size`` bytes; raise `ValueError` above the limit."""
    limit, unpacked = unpacked_limit(size), bytearray()
    stream = zlib.decompressobj(wbits=31)  # 16 for a gzip header, 15 for the window
    while chunk := file.read(_CHUNK):
        while chunk:
            # At most `_CHUNK` bytes at a time, so that the limit is noticed before a bomb has
            # unpacked.
            unpacked += stream.decompress(chunk, _CHUNK)
            if len(unpacked) > limit:
                raise ValueError(
                    f"{size:,} compressed bytes become more than the limit of {limit:,}"
                )
            chunk = stream.unused_data if stream.eof else stream.unconsumed_tail
            if stream.eof and chunk:
                raise ValueError(f"{len(chunk):,} bytes follow the compressed ones")
    if not stream.eof:
        raise ValueError("the compressed bytes end early")
    return bytes(unpacked)


class Stream:
    """A file of known size, whose reads are checked against the bytes left.

    ``BufferedReader.read(n)`` allocates n bytes before it reads; this class checks n first.
    """

    def __init__(self, file: BinaryIO, size: int, parent: Stream | None = None) -> None:
        self._file = file
        self._reads: list[int] = parent._reads if parent else [_MAX_READS]
        self.left = size

    def inner(self, data: bytes) -> Stream:
        """Return a stream of a file inside of this one; both share the limit of reads."""
        return Stream(io.BytesIO(data), len(data), self)

    def read(self, count: int) -> bytes:
        """Read exactly ``count`` bytes; raises `ValueError`."""
        self._reads[0] -= 1
        if self._reads[0] < 0:
            raise ValueError(f"is in more than {_MAX_READS:,} parts, the limit")
        self._take(count)
        return self._complete(self._file.read(count), count)

    def readline(self, limit: int = 10_000) -> bytes:
        """Read the rest of the line; raises `ValueError` above ``limit`` bytes."""
        line = self._file.readline(limit + 1)
        if len(line) > limit:
            raise ValueError(f"a line is longer than the limit of {limit:,} bytes")
        self._take(len(line))
        return line

    def readinto(self, buffer: bytearray) -> None:
        """Fill the buffer; raises `ValueError`."""
        self._take(len(buffer))
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]  # not in typing.BinaryIO
        if count != len(buffer):
            raise ValueError(f"ends {len(buffer) - (count or 0):,} bytes early")

    def _take(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise ValueError(f"promises {count:,} bytes, but the file has {self.left:,} left")
        self.left -= count

    @staticmethod
    def _complete(data: bytes, count: int) -> bytes:
        if len(data) != count:  # the file was truncated after it was opened
            raise ValueError(f"ends {count - len(data):,} bytes early")
        return data
