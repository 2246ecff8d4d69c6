"""The arrays of an ``.npz`` file, each checked against the size of its member before it is made."""

from __future__ import annotations

import math
import zipfile
from typing import BinaryIO, cast

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from sae_guard.checkpoints.safe_pickle.sizes import Stream, unpacked_limit


def read_arrays(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Name → tensor, of an ``.npz`` file of ``size`` bytes.

    Raises:
        ValueError: A member is no array of numbers, or promises more or less than it holds.
        Exception: Of many kinds, where the bytes are malformed.
    """
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        total, limit = sum(info.file_size for info in infos), unpacked_limit(size)
        if total > limit:
            raise ValueError(f"{size:,} bytes become {total:,}, allowed: up to {limit:,}")
        arrays: dict[str, Tensor] = {}
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or "/" in name or name in arrays:
                raise ValueError(f"{info.filename!r:.100} is no array, or one of several so named")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{info.filename!r:.100} is compressed as numpy does not")
            with archive.open(info) as member:
                stream = Stream(cast(BinaryIO, member), info.file_size)
                arrays[name] = _read_array(stream, info.filename)
        return arrays


def _read_array(stream: Stream, name: str) -> Tensor:
    shape, transposed, dtype = _header(stream)
    if dtype.kind not in "fiubc":  # so no objects, which are pickled
        raise ValueError(f"{name!r:.100} holds {dtype!r:.100}, expected numbers")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{name!r:.100} has the shape {shape!r:.100}")
    promised = math.prod(shape) * dtype.itemsize
    if promised != stream.left:
        raise ValueError(
            f"{name!r:.100} promises {promised:,} bytes of numbers, its member has {stream.left:,}"
        )
    raw = bytearray(promised)
    stream.readinto(raw)
    flat = np.frombuffer(raw, dtype)
    return torch.from_numpy(flat.reshape(shape, order="F" if transposed else "C"))


def _header(stream: Stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(cast(BinaryIO, stream))
    if version not in readers:
        raise ValueError(f"an array of version {version}, expected 1.0 or 2.0")
    try:
        return readers[version](cast(BinaryIO, stream))
    except (MemoryError, RecursionError) as error:
        # Of at most 10,000 bytes, so it is Python's parser that gives up, not the machine.
        raise ValueError("the header of an array is nested too deeply") from error
