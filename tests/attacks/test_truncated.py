"""Files that end early, and files with a byte changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from tests.attacks.containers import OPTIONS, WRITERS, saelens_folder, tensors, write

_WIDE = tensors(16, 32)  # a few kilobytes


@pytest.mark.parametrize("container", WRITERS)
def test_a_file_cut_off_at_every_kilobyte(tmp_path: Path, container: str) -> None:
    path = write(container, tmp_path, _WIDE)
    assert load(path, OPTIONS[container]).d_sae == 32
    data = path.read_bytes()
    assert len(data) > 4096
    for size in {*range(0, len(data), 1024), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(LoadError, match="unreadable"):
            load(path, OPTIONS[container])


@pytest.mark.parametrize("container", WRITERS)
def test_a_file_with_more_at_its_end(tmp_path: Path, container: str) -> None:
    path = write(container, tmp_path, _WIDE)
    path.write_bytes(path.read_bytes() + bytes(100))
    if container in ("zip", "npz"):
        assert load(path, OPTIONS[container]).d_sae == 32  # as a comment may follow a zip file
    else:
        with pytest.raises(LoadError, match="unreadable"):
            load(path, OPTIONS[container])


@pytest.mark.parametrize("container", ["npz", "safetensors", "pkl"])
def test_a_file_cut_off_at_every_byte_of_its_header(tmp_path: Path, container: str) -> None:
    path = write(container, tmp_path, _WIDE)
    data = path.read_bytes()
    for size in range(200):
        path.write_bytes(data[:size])
        with pytest.raises(LoadError, match="unreadable"):
            load(path, OPTIONS[container])


@pytest.mark.parametrize("container", WRITERS)
def test_a_changed_byte_is_an_error_or_another_value(tmp_path: Path, container: str) -> None:
    """The first and last 200 bytes hold the structure; a file that still loads has the sizes."""
    path = write(container, tmp_path, _WIDE)
    data = path.read_bytes()
    for place in [*range(200), *range(len(data) - 200, len(data))]:
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            sae = load(path, OPTIONS[container])
        except LoadError:
            continue
        assert (sae.d_in, sae.d_sae) == (16, 32)


def test_a_changed_weight_in_a_zip_file_does_not_match_its_checksum(tmp_path: Path) -> None:
    path = write("zip", tmp_path, _WIDE)
    data = _WIDE["W_enc"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(data, data[:-1] + bytes([data[-1] ^ 1])))
    with pytest.raises(LoadError, match="does not match its checksum"):
        read_entries(path)


def test_a_zip_file_without_checksums(tmp_path: Path) -> None:
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = write("zip", tmp_path, _WIDE)
    finally:
        torch.serialization.set_crc32_options(computed)
    assert torch.equal(read_entries(path)["W_enc"], _WIDE["W_enc"])


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_saelens_folder_with_a_file_cut_off(tmp_path: Path, name: str) -> None:
    path = saelens_folder(tmp_path / "sae") / name
    assert load(path.parent).d_sae == 10
    data = path.read_bytes()
    for size in {*range(0, len(data), 64), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(LoadError, match="unreadable"):
            load(path.parent)
