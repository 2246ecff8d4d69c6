"""Rebuilds the storages and tensors of `torch.save`, within the size of the file.

https://github.com/pytorch/pytorch/blob/main/torch/_utils.py has the original functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_guard.checkpoints.safe_pickle.sizes import MIB

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPES = [*_STORAGES.values()] + [
    getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
                 "float8_e5m2fnuz")
    if hasattr(torch, name)
]  # fmt: skip


@dataclass(frozen=True)
class StorageType:
    """The class of a storage: its dtype, and nothing that a pickle could call."""

    dtype: torch.dtype


CONSTANTS: Mapping[tuple[str, str], Any] = {
    **{
        (module, name): StorageType(dtype)
        for module in ("torch", "torch.cuda")
        for name, dtype in _STORAGES.items()
    },
    ("torch.storage", "UntypedStorage"): StorageType(torch.uint8),
    ("torch", "UntypedStorage"): StorageType(torch.uint8),
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _DTYPES},
}


@dataclass(frozen=True)
class Storage:
    """Elements of one dtype, in bytes that several storages may share."""

    dtype: torch.dtype
    raw: bytearray
    start: int
    """Index of the first byte in ``raw``."""
    count: int
    """Number of elements."""

    def part(self, start: int, count: int) -> Storage:
        """Return the ``count`` elements from ``start`` on; raises `ValueError`."""
        if not 0 <= start <= start + count <= self.count:
            raise ValueError(
                f"a tensor needs elements {start} to {start + count} of a storage of {self.count}"
            )
        return Storage(self.dtype, self.raw, self.start + start * self.dtype.itemsize, count)

    def viewed(self, dtype: torch.dtype) -> Storage:
        """Return the same bytes as elements of another dtype; raises `ValueError`."""
        count, rest = divmod(self.count * self.dtype.itemsize, dtype.itemsize)
        if rest:
            raise ValueError(
                f"a storage of {self.count * self.dtype.itemsize:,} bytes, expected a multiple of "
                f"{dtype.itemsize} for {dtype}"
            )
        return Storage(dtype, self.raw, self.start, count)


class Budget:
    """Memory that all storages and tensors of a file of ``size`` bytes may use."""

    def __init__(self, size: int) -> None:
        self._storages = size
        self._tensors = 4 * size + 64 * MIB  # one tensor may have several names

    def storage(self, kind: Any, count: Any) -> Storage:
        """Allocate a storage of zeros; raise `ValueError` where it is larger than the file."""
        if not isinstance(kind, StorageType) or not _size(count):
            raise ValueError(f"a storage of {kind!r:.100} and {count!r:.100} elements")
        self._storages -= count * kind.dtype.itemsize
        if self._storages < 0:
            raise ValueError(
                f"promises {-self._storages:,} bytes of storages more than the file has"
            )
        return Storage(kind.dtype, bytearray(count * kind.dtype.itemsize), 0, count)

    @property
    def functions(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """Functions that a pickle may call to rebuild tensors, by module and name."""
        return {
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_dtype,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
            ("torch", "Size"): _shape,
        }

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any = None,
        hooks: Any = None, metadata: Any = None,
    ) -> Tensor:  # fmt: skip
        """Return a view of the storage; refuse elements outside of it and more than it has."""
        sizes = (offset, *shape, *stride)
        if not isinstance(storage, Storage) or metadata or len(shape) != len(stride):
            raise ValueError(f"a tensor of {storage!r:.100} with {metadata!r:.100}")
        if not all(map(_size, sizes)):
            raise ValueError(f"a tensor with offset, shape and strides {sizes!r:.100}")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if count and (count > storage.count or last >= storage.count):
            raise ValueError(
                f"a tensor of shape {list(shape)!r:.100} with {count:,} elements, the last at "
                f"{last:,}, in a storage of {storage.count:,}"
            )
        self._tensors -= count * storage.dtype.itemsize
        if self._tensors < 0:
            raise ValueError("tensors that share storages add up to over 4 times the file")
        if not count:
            return torch.empty(shape, dtype=storage.dtype)
        flat = torch.frombuffer(
            storage.raw, dtype=storage.dtype, count=storage.count, offset=storage.start
        )
        return flat.as_strided(shape, stride, offset)

    def _tensor_of_dtype(
        self, storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any,
        dtype: Any, metadata: Any = None,
    ) -> Tensor:  # fmt: skip
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise ValueError(f"a tensor of {storage!r:.100} and dtype {dtype!r:.100}")
        return self._tensor(storage.viewed(dtype), offset, shape, stride, metadata=metadata)


def _parameter(data: Any, *ignored: Any) -> Any:
    return data


def _shape(sizes: Any) -> tuple[Any, ...]:
    if type(sizes) not in (list, tuple) or not all(map(_size, sizes)):
        raise ValueError(f"a shape of {sizes!r:.100}")
    return tuple(sizes)


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
