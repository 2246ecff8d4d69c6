"""The config of a checkpoint is read once, whether it is declared or loaded; hashes of files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sae_guard.checkpoints.declare import declare
from sae_guard.checkpoints.files import read_files, sha256
from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from tests.helpers.checkpoint_files import example_sae, tensors_of, write_saelens
from tests.helpers.openmoss_files import write_2025, write_v1

_opened: list[str] | None = None


def _listen(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(args[0]))


sys.addaudithook(_listen)  # there is no way to take one back, so it is told when to listen


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """List the files that are opened, each as often as it is."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def sparsify(folder: Path) -> list[Path]:
    """Write a folder whose config, and that of the run above it, both say something."""
    path = folder / "run" / "layers.3"
    path.mkdir(parents=True)
    (folder / "run" / "config.json").write_text('{"model": "gpt2"}')
    (path / "cfg.json").write_text('{"k": 2, "num_latents": 10, "d_in": 6}')
    tensors = tensors_of(example_sae())
    linear = {"encoder.weight": tensors["W_enc"].T.contiguous(), "encoder.bias": tensors["b_enc"]}
    save_file({**linear, "W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]},
              path / "sae.safetensors")  # fmt: skip
    return [path, path / "cfg.json", path.parent / "config.json"]


def neel(folder: Path) -> list[Path]:
    torch.save(tensors_of(example_sae()), folder / "1.pt")
    (folder / "1_cfg.json").write_text('{"model_name": "gelu-1l", "act_name": "blocks.0.mlp"}')
    return [folder / "1.pt", folder / "1_cfg.json"]


def bussmann(folder: Path) -> list[Path]:
    torch.save(tensors_of(example_sae()), folder / "sae.pt")
    (folder / "config.json").write_text('{"sae_type": "vanilla", "input_unit_norm": false}')
    return [folder, folder / "config.json"]


def saelens(folder: Path) -> list[Path]:
    return [write_saelens(folder / "sae", example_sae()), folder / "sae" / "cfg.json"]


def openmoss(folder: Path) -> list[Path]:
    write_2025(folder)
    (folder / "lm_config.json").write_text('{"model_name": "gpt2"}')
    return [folder, folder / "config.json", folder / "lm_config.json"]


def lm_saes(folder: Path) -> list[Path]:
    write_v1(folder)
    return [folder / "checkpoints" / "final.safetensors", folder / "hyperparams.json"]


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (sparsify, SaeOptions()),
        (neel, SaeOptions()),
        (bussmann, SaeOptions()),
        (saelens, SaeOptions()),
        (openmoss, SaeOptions(scale="stored")),
        (lm_saes, SaeOptions()),
    ],
)
def test_every_config_is_read_once(
    tmp_path: Path, write: Callable[[Path], list[Path]], options: SaeOptions
) -> None:
    path, *configs = write(tmp_path)
    with files_opened() as opened:
        declare(path)
    assert [opened.count(str(config)) for config in configs] == [1] * len(configs)
    with files_opened() as opened:
        load(path, options)
    assert [opened.count(str(config)) for config in configs] == [1] * len(configs)


def test_the_hash_of_the_config_is_that_of_what_was_read(tmp_path: Path) -> None:
    folder = write_saelens(tmp_path / "sae", example_sae())
    data = (folder / "cfg.json").read_bytes()
    assert load(folder).source.files["cfg.json"] == hashlib.sha256(data).hexdigest()


def test_files_without_a_config(tmp_path: Path) -> None:
    files = read_files(tmp_path, tmp_path / "sae.pt", None, "x")
    assert (files.config, files.config_sha256, files.name) == (None, "", "x")


def test_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    data = bytes(range(256)) * 10_000
    path.write_bytes(data)
    assert sha256(path) == hashlib.sha256(data).hexdigest()
    with pytest.raises(LoadError, match="gone"):
        sha256(tmp_path / "gone.safetensors")
