"""Hostile and broken files: a `LoadError`, and no code of theirs runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.checkpoints import inert
from sae_guard.checkpoints.files import read_entries, sha256
from sae_guard.checkpoints.inert import Record, Unpickler
from sae_guard.checkpoints.load import load
from sae_guard.errors import LoadError


class Leaves:
    """Unpickling it leaves a trace: it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_pickled_code_of_a_zip_becomes_a_record(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "sae.pt"
    torch.save({"W_enc": torch.ones(2, 2), "evil": Leaves(trace)}, path)
    entries = read_entries(path)
    assert isinstance(entries["evil"], Record)
    assert not trace.exists()
    with pytest.raises(LoadError, match=r"holds 'evil' \(mkdir\)"):
        load(path)


def test_pickled_code_of_an_old_file_is_refused(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "sae.pt"
    payload = {"W_enc": torch.ones(2, 2), "evil": Leaves(trace)}
    torch.save(payload, path, _use_new_zipfile_serialization=False)
    with pytest.raises(LoadError, match="unreadable"):
        read_entries(path)
    assert not trace.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sae/constants.pkl", pickle.dumps(()))
        archive.writestr("sae/data.pkl", pickle.dumps({}))
    with pytest.raises(pickle.UnpicklingError, match="TorchScript"):
        inert.load(path)
    with pytest.raises(LoadError, match="unreadable"):
        read_entries(path)


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.exec", "builtins.getattr", "torch.load", "torch.hub.load",
     "torch.storage._load_from_bytes", "subprocess.Popen", "sae_guard.cli.main"],
)  # fmt: skip
def test_every_other_global_is_a_record(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = Unpickler(io.BytesIO()).find_class(module, attribute)
    assert issubclass(found, Record)
    assert isinstance(found("rm", shell=True), Record)


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "sae.pt"
    path.write_bytes(pickle.dumps(Leaves(trace)))
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
    np.savez(path, allow_pickle=True, W_enc=np.array([Leaves(trace)], dtype=object))
    with pytest.raises(LoadError, match="unreadable: ValueError"):
        read_entries(path)
    assert not trace.exists()


def test_a_missing_file(tmp_path: Path) -> None:
    for read in (read_entries, sha256):
        with pytest.raises(LoadError, match="gone"):
            read(tmp_path / "gone.safetensors")
