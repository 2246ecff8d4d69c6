"""Files of named tensors: safetensors with a checksum of all other bytes as first metadata value.

Any reader of safetensors can open such a file. This one loads it into one buffer, verifies the
checksum before it parses anything, and returns views of the buffer, which takes a third of the time
of the safetensors library, which copies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Name of each allowed dtype in torch → its name in safetensors."""

_CHECKSUM = "xxh3_128"
_OPENING = b'{"__metadata__":{"%s":"' % _CHECKSUM.encode()
# Position of the checksum: after the 8 bytes of the header's length and the opening, 32 digits.
_START = 8 + len(_OPENING)
_END = _START + 32
_ALIGNMENT = 64  # of the first tensor, in bytes


@dataclass(frozen=True, eq=False)
class Tensors:
    """Contents of a file: CPU tensors, views of one buffer that lives as long as any of them."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of a name; raise `KeyError` if there is none."""
        return self.tensors[name]


def write(
    file: BinaryIO, label: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors of any device, shape and memory layout to a file.

    At most one tensor at a time is copied.

    Args:
        file: Empty file that can seek.
        label: Text that is part of the checksum; `read` needs the same one.
        tensors: Name → tensor; the name ``__metadata__`` is not allowed.
        metadata: Key → text; the key ``xxh3_128`` is not allowed.

    Raises:
        ValueError: A name, a key or a dtype is not allowed.
    """
    # Wide elements first: then every tensor is aligned without gaps, which safetensors forbids.
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = _header({name: tensors[name] for name in ordered}, metadata)
    digest = xxhash.xxh3_128(f"{label}\0".encode())
    digest.update(header[:_START])
    digest.update(header[_END:])
    file.write(header)
    for name in ordered:
        content = _content(tensors[name])
        digest.update(content)
        file.write(content)
    file.seek(_START)
    file.write(digest.hexdigest().encode())


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file, with its length and zeros for the checksum."""
    if _CHECKSUM in metadata or "__metadata__" in tensors:
        raise ValueError(
            f"the metadata key {_CHECKSUM!r} and the tensor name '__metadata__' are reserved; "
            "allowed: all others"
        )
    header: dict[str, Any] = {"__metadata__": {_CHECKSUM: "0" * 32, **metadata}}
    end = 0
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} is {dtype}; allowed: {', '.join(DTYPES)}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)  # safetensors allows spaces at the end
    return len(text).to_bytes(8, "little") + text


def _content(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's values in row-major order."""
    import torch

    # conj() and .imag of a conjugate only set a flag; resolving computes the values.
    values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return values.reshape(-1).view(torch.uint8).numpy().data


def read(file: BufferedReader, label: str) -> Tensors | None:
    """Read a file that `write` wrote, bit for bit.

    Args:
        file: The file, opened at its start.
        label: Label that it was written with.

    Returns:
        The contents; None if the file is damaged, or was written with another label or by another
        program.

    Raises:
        OSError: The file cannot be read.
    """
    import torch

    size = os.fstat(file.fileno()).st_size
    # Files of other programs are recognised before memory of their size is allocated.
    if size < _END or file.read(_START)[8:] != _OPENING:
        return None
    file.seek(0)
    buffer = torch.empty(size, dtype=torch.uint8)
    content = buffer.numpy().data
    if file.readinto(content) != size:
        return None
    digest = xxhash.xxh3_128(f"{label}\0".encode())
    digest.update(content[:_START])
    digest.update(content[_END:])
    if digest.hexdigest().encode() != content[_START:_END]:
        return None
    try:
        return _parse(buffer)
    # The checksum detects accidents only. A file that was forged with a right one can be malformed.
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None


def _parse(buffer: torch.Tensor) -> Tensors:
    """Return the tensors of a safetensors file as views of its bytes; raise if it is malformed."""
    import torch

    content = buffer.numpy().data
    data_start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:data_start]))
    metadata = dict(header.pop("__metadata__"))
    del metadata[_CHECKSUM]
    dtypes = {code: getattr(torch, name) for name, code in DTYPES.items()}
    tensors = {}
    for name, row in header.items():
        start, end = (data_start + offset for offset in row["data_offsets"])
        if not data_start <= start <= end <= len(content):
            raise ValueError(f"tensor {name!r} has bytes {start} to {end} of {len(content)}")
        tensors[name] = buffer[start:end].view(dtypes[row["dtype"]]).view(row["shape"])
    return Tensors(tensors, metadata)
