"""Every container is read as its own library reads it; hostile ones are in `tests/attacks`."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from tests.helpers.pickled_files import WAYS, written


@pytest.mark.parametrize("how", WAYS)
def test_plain_values_are_themselves(tmp_path: Path, how: str) -> None:
    shared = [1, 2]
    saved = {
        "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**62, -(2**62), 2**100, 1.5, -0.0],
        "texts": ("", "a", "é", "x" * 300, "😀"),
        "bytes": [b"", b"ab", b"\x00\xff" * 200],
        "truths": [True, False, None],
        "sets": [{1, 2}, frozenset({"a"}), set()],
        "nested": {"a": {"b": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}, 1: 2, 0.5: 1, None: 0},
        "ordered": OrderedDict(b=1, a=2),
        "shared": [shared, shared],
        "torch": [torch.float32, torch.bfloat16, torch.uint8],
    }
    assert read_entries(written(how, saved, tmp_path / "sae.pkl")) == saved


@pytest.mark.parametrize("how", WAYS)
def test_a_state_dict_with_the_versions_of_its_modules(tmp_path: Path, how: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    saved = module.state_dict()
    entries = read_entries(written(how, saved, tmp_path / "sae.pt"))
    assert list(entries) == list(saved)
    assert all(torch.equal(entries[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_at_the_top(tmp_path: Path, how: str, kind: Any) -> None:
    path = written(how, kind([torch.ones(2), {"l1": 0.1}]), tmp_path / "learned_dicts.pt")
    entries = read_entries(path)
    assert list(entries) == ["__list__"]
    assert entries["__list__"][1] == {"l1": 0.1}


@pytest.mark.parametrize("saved", [torch.ones(2), 3, "text", None], ids=str)
def test_anything_else_is_refused(tmp_path: Path, saved: Any) -> None:
    path = written("zip", saved, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=f"holds a {type(saved).__name__}, expected a state dict"):
        read_entries(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "u2", "b1", "c8"])
def test_arrays_are_those_that_numpy_reads(tmp_path: Path, dtype: str, order: Any) -> None:
    path = tmp_path / "params.npz"
    arrays: dict[str, Any] = {
        "a": np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order),
        "b": np.array(3, dtype=dtype),
        "c": np.zeros((0, 3), dtype=dtype),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        entries = read_entries(path)
        for name, array in arrays.items():
            assert np.array_equal(entries[name].numpy(), array)
            assert entries[name].numpy().dtype == array.dtype


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="gone"):
        read_entries(tmp_path / "gone.safetensors")
