"""Links that loop, pipes, folders and names that are no checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sae_guard.checkpoints.declare import declare
from sae_guard.checkpoints.files import read_config, sha256
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.locate import find, is_checkpoint
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError, SetupError
from tests.attacks.containers import WRITERS, saelens_folder, tensors, write


def loop(path: Path) -> Path:
    """A link to another one that leads back."""
    other = path.with_name(f"other-{path.name}")
    path.symlink_to(other)
    other.symlink_to(path)
    return path


@pytest.mark.parametrize("name", ["sae.pt", "sae.safetensors", "params.npz", "folder"])
@pytest.mark.parametrize("read", [load, declare])
def test_a_path_that_loops(tmp_path: Path, name: str, read: Any) -> None:
    path = loop(tmp_path / name)
    with pytest.raises(LoadError, match=name):
        read(path)
    assert not is_checkpoint(path)
    assert find(name, tmp_path) == [path]  # and loading it says what is wrong


def test_a_file_that_loops_is_unreadable(tmp_path: Path) -> None:
    path = loop(tmp_path / "sae.pt")
    for read in (read_entries, sha256, read_config):
        with pytest.raises(LoadError, match="unreadable"):
            read(path)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_folder_with_a_file_that_loops(tmp_path: Path, name: str) -> None:
    folder = saelens_folder(tmp_path / "sae")
    (folder / name).unlink()
    loop(folder / name)
    with pytest.raises(LoadError, match="a folder with"):
        load(folder)


def test_a_folder_that_holds_itself(tmp_path: Path) -> None:
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "again").symlink_to(tmp_path / "sae")
    with pytest.raises(LoadError, match="a folder with again"):
        load(tmp_path / "sae")
    with pytest.raises(SetupError, match="no checkpoint"):
        find("sae/**/*.pt", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", [name for name, _ in WRITERS.values()])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for reading in (read_entries, sha256):
        with pytest.raises(LoadError, match="not a regular file"):
            reading(tmp_path / name)
    with pytest.raises(LoadError, match=name):
        load(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_as_a_config(tmp_path: Path) -> None:
    folder = saelens_folder(tmp_path / "sae")
    (folder / "cfg.json").unlink()
    os.mkfifo(folder / "cfg.json")
    with pytest.raises(LoadError, match="a folder with"):
        load(folder)


@pytest.mark.parametrize("name", [name for name, _ in WRITERS.values()])
def test_a_folder_with_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(LoadError, match="a folder with nothing in it"):
        load(tmp_path / name)
    for read in (read_entries, sha256):
        with pytest.raises(LoadError, match="unreadable"):
            read(tmp_path / name)


def test_devices_are_refused() -> None:
    for device in ("/dev/zero", "/dev/null"):
        if Path(device).exists():
            with pytest.raises(LoadError, match="not a regular file"):
                read_entries(Path(device))


@pytest.mark.parametrize("container", WRITERS)
def test_a_container_under_another_suffix(tmp_path: Path, container: str) -> None:
    """A pickle, zip or gzip file is known by its first bytes, the others by their suffix."""
    path = write(container, tmp_path, tensors())
    for suffix in (".pt", ".pth", ".pkl", ".pkl.gz", ".npz", ".safetensors"):
        other = path.rename(tmp_path / f"other{suffix}")
        by_bytes = container in ("zip", "old", "pkl", "pkl.gz") and suffix.startswith(".p")
        if by_bytes or suffix == f".{container}":
            assert read_entries(other).keys() >= tensors().keys()
        else:
            with pytest.raises(LoadError, match="unreadable"):
                read_entries(other)
        path = other
