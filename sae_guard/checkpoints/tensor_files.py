"""Readers of tensors from any container, which run no code of the file.

Every array of an ``.npz`` file is checked against the size of its member before it is allocated.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors.torch import load_file
from torch import Tensor

from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.checkpoints.safe_pickle.sizes import MIB, Stream, opened, unpacked_limit
from sae_guard.checkpoints.safe_pickle.torch_files import read_torch
from sae_guard.errors import InfrastructureError, LoadError

_LONGEST_NAME = 200
_LONGEST_HEADER = 16 * MIB


def read_entries(path: Path) -> dict[str, Any]:
    """Read the top level of a weights file: name → tensor, number or text.

    A pickled object that is no mapping becomes the only entry: an object of foreign code under
    ``__record__``, a list or tuple under ``__list__``. The first bytes decide the container, except
    for ``.safetensors`` and ``.npz``.

    Raises:
        LoadError: The file is unreadable, declares more data than it has, or has no state dict.
        InfrastructureError: The machine has not enough memory.
    """
    loaded = _load(path)
    if isinstance(loaded, InertObject):
        return {"__record__": loaded}
    if isinstance(loaded, list | tuple):
        return {"__list__": list(loaded)}
    if not isinstance(loaded, Mapping):
        raise LoadError(f"{path}: holds a {type(loaded).__name__}, expected a state dict")
    entries = {_text(name): value for name, value in loaded.items()}
    if len(entries) != len(loaded):
        raise LoadError(f"{path}: several entries have the same name as text", "keys")
    for name in entries:
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise LoadError(
                f"{path}: {name[:_LONGEST_NAME]!r} is no name of a tensor, allowed: up to "
                f"{_LONGEST_NAME} printable characters",
                "keys",
            )
    return entries


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def _load(path: Path) -> Any:
    try:
        with opened(path) as (file, size):
            if path.suffix == ".npz":
                return read_arrays(file, size)
            if path.suffix != ".safetensors":
                return read_torch(file, size)
            # A safetensors file begins with the length of its JSON header.
            header = int.from_bytes(file.read(8), "little")
            if header > min(size, _LONGEST_HEADER):
                raise ValueError(
                    f"a header of {header:,} bytes in a file of {size:,}, allowed: up to "
                    f"{_LONGEST_HEADER:,}"
                )
        return load_file(path)
    except MemoryError as error:
        raise InfrastructureError(f"not enough memory to read {path}") from error
    except Exception as error:  # malformed bytes make these readers raise nearly any exception
        raise LoadError(f"{path}: unreadable: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0][:500]
    text = "".join(letter if letter.isprintable() else "?" for letter in line)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Convert the tensors to float32, and check that all values are finite.

    Raises:
        LoadError: A tensor is not dense or not floating-point, or has a NaN or an infinity.
    """
    converted = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise LoadError(
                f"{path}: {name} is {tensor.dtype} {tensor.layout}, expected floats in a dense "
                "(strided) tensor",
                "shapes",
            )
        values = converted[name] = tensor.detach().to(torch.float32)
        if not bool(values.isfinite().all()):
            count = int((~values.isfinite()).sum())
            raise LoadError(
                f"{path}: {name} has {count} values that are not finite in float32", "finite"
            )
    return converted


def check_shapes(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Raise `LoadError` unless the tensors have exactly the names and shapes of ``shapes``."""
    missing, unknown = sorted(shapes.keys() - tensors), sorted(tensors.keys() - shapes)
    if missing or unknown:
        raise LoadError(
            f"{path}: "
            + "; ".join(
                f"{problem}: {', '.join(names)}"
                for problem, names in (("missing", missing), ("not understood", unknown))
                if names
            )
            + f"; expected exactly {', '.join(shapes)}",
            "keys",
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise LoadError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(shape)}",
                "shapes",
            )


def read_arrays(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Read an ``.npz`` file of ``size`` bytes: name → tensor.

    Raises:
        ValueError: A member is no array of numbers, or its size differs from its header.
        Exception: The bytes are malformed; the kind varies.
    """
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        total, limit = sum(info.file_size for info in infos), unpacked_limit(size)
        if total > limit:
            raise ValueError(
                f"{size:,} compressed bytes become {total:,}, allowed: up to {limit:,}"
            )
        arrays: dict[str, Tensor] = {}
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or "/" in name:
                raise ValueError(
                    f"{info.filename!r:.100} is no array, expected NAME.npy outside of folders"
                )
            if name in arrays:
                raise ValueError(f"several members are named {info.filename!r:.100}")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"{info.filename!r:.100} has compression method {info.compress_type}, allowed: "
                    "stored or deflated, as numpy writes"
                )
            with archive.open(info) as member:
                stream = Stream(cast(BinaryIO, member), info.file_size)
                arrays[name] = _read_array(stream, info.filename)
        return arrays


def _read_array(stream: Stream, name: str) -> Tensor:
    shape, transposed, dtype = _header(stream)
    if dtype.kind not in "fiubc":  # objects would be pickled
        raise ValueError(f"{name!r:.100} has dtype {dtype!r:.100}, expected numbers")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{name!r:.100} has shape {shape!r:.100}, expected lengths from 0 on")
    size = math.prod(shape) * dtype.itemsize
    if size != stream.left:
        raise ValueError(
            f"{name!r:.100} should hold {size:,} bytes of numbers by its shape and dtype, but the "
            f"file has {stream.left:,}"
        )
    # Not bytes: torch warns of memory that cannot be written.
    raw = bytearray(size)
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
        # A header has at most 10,000 bytes: Python's parser gave up, not the machine.
        raise ValueError(
            "the header of an array is nested too deeply to be read; save the file again"
        ) from error
