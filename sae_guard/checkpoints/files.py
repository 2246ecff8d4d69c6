"""Reading tensors out of files without running what is in them. Every failure is a `LoadError`."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_guard.checkpoints import inert
from sae_guard.errors import LoadError

_CHUNK = 2**20


def sha256(path: Path) -> str:
    """Hash of the file's bytes; raises `LoadError`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise LoadError(f"{path}: unreadable: {error}") from error
    return digest.hexdigest()


def read_entries(path: Path) -> dict[str, Any]:
    """Name → tensor, number or text: the top level of a ``.safetensors``, ``.npz`` or ``.pt`` file.

    Raises:
        LoadError: The file is unreadable, would have to run code, or holds no mapping.
    """
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise LoadError(f"{path}: holds a {type(loaded).__name__}, expected a state dict")
    return {str(name): value for name, value in loaded.items()}


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        try:
            # No pickled code runs, whatever the file asks for.
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            if not zipfile.is_zipfile(path):
                raise
            return inert.load(path)  # nor here: what it asks for becomes a record
    except Exception as error:  # hostile bytes raise nearly anything in these readers
        raise LoadError(f"{path}: unreadable: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors in float32, each finite.

    Raises:
        LoadError: A tensor is no dense float, or holds a NaN or an infinity.
    """
    converted = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise LoadError(
                f"{path}: {name} is {tensor.dtype} {tensor.layout}, expected floats", "shapes"
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
    """Raise `LoadError` unless exactly the tensors of ``shapes`` are there, in those shapes."""
    missing, left_over = sorted(shapes.keys() - tensors), sorted(tensors.keys() - shapes)
    if missing or left_over:
        raise LoadError(
            f"{path}: "
            + "; ".join(
                f"{what}: {', '.join(names)}"
                for what, names in (("missing", missing), ("not understood", left_over))
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
