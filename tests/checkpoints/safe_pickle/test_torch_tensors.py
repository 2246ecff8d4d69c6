"""Tensors of every type and form are those that torch reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from tests.helpers.pickled_files import WAYS, written

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16,
    torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip
DTYPES_OF_UNTYPED_STORAGES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)


def variants(tensor: Tensor) -> dict[str, Tensor]:
    """Views and kinds of a matrix."""
    return {
        "whole": tensor,
        "transposed": tensor.T,
        "a row": tensor[2],
        "a column": tensor[:, 1],
        "every other": tensor[::2, 1::2],
        "one": tensor[0, 0],
        "none": tensor[:0],
        "empty": torch.empty(0, 7, dtype=tensor.dtype),
        "reshaped": tensor.reshape(2, -1),
        "bytes": tensor.clone(),
    }


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_that_torch_reads(tmp_path: Path, how: str, dtype: torch.dtype) -> None:
    saved = variants((torch.randn(6, 4) * 3).to(dtype))
    path = written(how, saved, tmp_path / "sae.pt")
    entries = read_entries(path)
    assert entries.keys() == saved.keys()
    for name, tensor in saved.items():
        loaded = entries[name]
        assert (loaded.dtype, loaded.shape) == (dtype, tensor.shape)
        assert loaded.stride() == tensor.stride() or 0 in tensor.shape
        assert loaded.contiguous().view(-1).view(torch.uint8).tolist() == (
            tensor.contiguous().view(-1).view(torch.uint8).tolist()
        )
    # torch 2.13 cannot read its own old files of the dtypes that have no class of storage.
    if how == "zip" or (how == "old" and dtype not in DTYPES_OF_UNTYPED_STORAGES):
        for name, tensor in torch.load(path, weights_only=True).items():
            assert torch.equal(tensor.to(torch.complex128), entries[name].to(torch.complex128))


@pytest.mark.parametrize("how", WAYS)
def test_parameters_and_shared_tensors(tmp_path: Path, how: str) -> None:
    weight = nn.Parameter(torch.randn(3, 2))
    saved = {"a": weight, "b": weight, "view": weight.data[1:], "grad": weight.data}
    entries = read_entries(written(how, saved, tmp_path / "sae.pt"))
    assert torch.equal(entries["a"], weight.data)
    assert torch.equal(entries["b"], weight.data)
    assert torch.equal(entries["view"], weight.data[1:])
    assert not entries["a"].requires_grad
    if how in ("zip", "old"):
        assert entries["view"].data_ptr() == entries["a"][1:].data_ptr()


def test_a_conjugated_view_is_refused(tmp_path: Path) -> None:
    path = written("zip", {"a": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match="'conj': True"):
        read_entries(path)
