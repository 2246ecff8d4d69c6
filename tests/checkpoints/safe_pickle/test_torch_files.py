"""Containers of `torch.save` and of pickle are told apart, and some are refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError


def test_the_way_of_python_2(tmp_path: Path) -> None:
    path = tmp_path / "sae.pkl"
    path.write_bytes(b"\x80\x02}U\x01aT\x01\x00\x00\x00bs.")
    assert read_entries(path) == {"a": "b"}


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sae/constants.pkl", pickle.dumps(()))
        archive.writestr("sae/data.pkl", pickle.dumps({}))
    with pytest.raises(LoadError, match="a TorchScript archive is a program"):
        read_entries(path)


def test_containers_that_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    path.write_bytes(b"storages".ljust(257, b"\0") + b"ustar" + bytes(500))
    with pytest.raises(LoadError, match="a tar file, as torch wrote"):
        read_entries(path)
    path.write_bytes(b"(dp0\n.")
    with pytest.raises(LoadError, match="expected the first bytes of a zip file"):
        read_entries(path)
    torch.save({}, path)
    path.write_bytes(path.read_bytes().replace(b"little", b"big   "))
    with pytest.raises(LoadError, match=r"big-endian|checksum"):
        read_entries(path)
    path.write_bytes(pickle.dumps({}) * 2)
    with pytest.raises(LoadError, match="bytes follow the pickled object"):
        read_entries(path)
