"""Bounds on what a file may make us allocate, and opening without waiting; no torch."""

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
_MOST_READS = 500_000
"""Of the parts of a pickle: a byte of it may become an object of 200."""


def unpacked_limit(size: int) -> int:
    """How many bytes ``size`` compressed bytes may become: weights hardly compress at all."""
    return max(64 * MIB, 16 * size)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size in bytes.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file: reading a pipe or a device may never end.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer before its kind can be asked for.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        yield file, status.st_size


_BINARY = getattr(os, "O_BINARY", 0)  # Windows


def gunzipped(file: BinaryIO, size: int) -> bytes:
    """The content of a gzip file of ``size`` bytes; raises `ValueError` where it is too much."""
    limit, unpacked = unpacked_limit(size), bytearray()
    stream = zlib.decompressobj(wbits=31)
    while chunk := file.read(_CHUNK):
        while chunk:
            unpacked += stream.decompress(chunk, _CHUNK)
            if len(unpacked) > limit:
                raise ValueError(f"{size:,} compressed bytes become more than {limit:,}")
            chunk = stream.unused_data if stream.eof else stream.unconsumed_tail
            if stream.eof and chunk:
                raise ValueError(f"{len(chunk):,} bytes follow the compressed ones")
    if not stream.eof:
        raise ValueError("the compressed bytes end early")
    return bytes(unpacked)


class Stream:
    """A file of known size that hands out no more than is in it.

    ``BufferedReader.read(n)`` allocates n bytes before it looks; this looks first.
    """

    def __init__(self, file: BinaryIO, size: int, parent: Stream | None = None) -> None:
        self._file = file
        self._reads: list[int] = parent._reads if parent else [_MOST_READS]
        self.left = size

    def inner(self, data: bytes) -> Stream:
        """A file that was inside of this one; both together are read in so many parts at most."""
        return Stream(io.BytesIO(data), len(data), self)

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes; raises `ValueError`."""
        self._reads[0] -= 1
        if self._reads[0] < 0:
            raise ValueError(f"is in more than {_MOST_READS:,} parts")
        self._take(count)
        return self._whole(self._file.read(count), count)

    def readline(self, limit: int = 10_000) -> bytes:
        """The rest of the line; raises `ValueError` if it is long."""
        line = self._file.readline(limit + 1)
        if len(line) > limit:
            raise ValueError(f"a line is longer than {limit:,} bytes")
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
            raise ValueError(f"promises {count:,} bytes, {self.left:,} are left of the file")
        self.left -= count

    @staticmethod
    def _whole(data: bytes, count: int) -> bytes:
        if len(data) != count:  # the file got shorter since it was opened
            raise ValueError(f"ends {count - len(data):,} bytes early")
        return data
