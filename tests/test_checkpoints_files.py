"""Hostile and broken files: a `LoadError`, and no code of theirs runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.checkpoints.files import read_entries, sha256
from sae_guard.errors import LoadError


class Writes:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "run"))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_does_not_run(tmp_path: Path, zipped: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "sae.pt"
    payload = {"W_enc": torch.ones(2, 2), "evil": Writes(trace)}
    torch.save(payload, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(LoadError, match="unreadable"):
        read_entries(path)
    assert not trace.exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "sae.pt"
    path.write_bytes(pickle.dumps(Writes(trace)))
    with pytest.raises(LoadError):
        read_entries(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"sae{suffix}"
    path.write_bytes(data)
    with pytest.raises(LoadError, match="sae"):
        read_entries(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    torch.save({"W_enc": torch.ones(64, 64)}, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 1024):
        path.write_bytes(whole[:size])
        with pytest.raises(LoadError, match="unreadable"):
            read_entries(path)


def test_anything_but_a_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    torch.save([torch.ones(2)], path)
    with pytest.raises(LoadError, match="holds a list, expected a state dict"):
        read_entries(path)


def test_object_arrays_do_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "params.npz"
    np.savez(path, allow_pickle=True, W_enc=np.array([Writes(trace)], dtype=object))
    with pytest.raises(LoadError, match="unreadable: ValueError"):
        read_entries(path)
    assert not trace.exists()


def test_a_missing_file(tmp_path: Path) -> None:
    for read in (read_entries, sha256):
        with pytest.raises(LoadError, match="gone"):
            read(tmp_path / "gone.safetensors")
