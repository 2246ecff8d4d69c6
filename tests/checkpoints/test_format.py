"""What a format says of its files decides which are found, in which order."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from sae_guard.checkpoints.format import ConfigLocation, FolderLayout
from sae_guard.checkpoints.formats import FORMATS
from sae_guard.checkpoints.locate import files_at

LAYOUTS = (
    ("cfg.json", "sae_weights.safetensors"),  # SAELens
    ("cfg.json", "sae.safetensors"),  # sparsify
    ("cfg.json", "cc_weights.pt"),  # crosscoders
    ("hyperparams.json", "checkpoints/final.safetensors"),  # OpenMOSS before 2025 …
    ("hyperparams.json", "checkpoints/pruned.safetensors"),
    ("hyperparams.json", "checkpoints/final.pt"),
    ("hyperparams.json", "checkpoints/pruned.pt"),
    ("hyperparams.json", "sae_weights.safetensors"),
    ("hyperparams.json", "sae_weights.pt"),
    ("config.json", "sae_weights.safetensors"),  # … and since
    ("config.json", "sae_weights.pt"),
    ("config.json", "ae.pt"),  # dictionary_learning
    ("config.json", "sae.pt"),  # Bussmann
    ("config.json", "params.safetensors"),  # Gemma Scope 2
    (None, "params.safetensors"),
    (None, "params.npz"),  # Gemma Scope
    ("conf.yaml", "latest_ckpt.safetensors"),  # temporal SAEs
)
"""Layouts whose files may lie in one folder, in the order in which they are tried."""


def put(folder: Path, *names: str | None) -> None:
    """Write files that say nothing."""
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_formats_have_all_of_these() -> None:
    layouts = {(folder.config, folder.weights) for format in FORMATS for folder in format.folders}
    assert layouts >= set(LAYOUTS)


@pytest.mark.parametrize(("first", "second"), [*combinations(LAYOUTS, 2)])
def test_a_folder_with_the_files_of_two_is_of_the_first(
    tmp_path: Path, first: tuple[str | None, str], second: tuple[str | None, str]
) -> None:
    put(tmp_path, *first, *second)
    files = files_at(tmp_path)
    assert files is not None
    names = {(config, weights) for config, weights in LAYOUTS
             if (config is None or (tmp_path / config).exists())
             and (tmp_path / weights).exists()}  # fmt: skip
    expected = next(layout for layout in LAYOUTS if layout in names)
    config = files.config_file and files.config_file.relative_to(tmp_path).as_posix()
    assert (config, files.weights.relative_to(tmp_path).as_posix()) == expected


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (["x.pt", "x_cfg.json"], "x_cfg.json"),  # Neel's
        (["samples_7.pt", "final_config.yaml"], "final_config.yaml"),  # e2e_sae's
        (["samples_7.pt", "final_config.yaml", "samples_7_cfg.json"], "samples_7_cfg.json"),
        (["layer_3.safetensors", "config.yaml"], "config.yaml"),  # circuit-tracer's
        (["params.safetensors", "config.json"], "config.json"),  # Gemma Scope 2's
        (["checkpoints/x.pt", "hyperparams.json"], "hyperparams.json"),  # OpenMOSS's
        (["checkpoints/samples_7.pt", "hyperparams.json", "checkpoints/final_config.yaml"],
         "checkpoints/final_config.yaml"),
        (["checkpoints/ae_5.pt", "config.json"], "config.json"),  # dictionary_learning's
        (["checkpoints/ae_5.pt", "config.json", "hyperparams.json"], "hyperparams.json"),
        (["ae.pt", "config.json", "../config.json"], "config.json"),
        (["x.pt", "config.json", "config.yaml", "final_config.yaml", "hyperparams.json"], None),
        (["layer_3.pt", "config.yaml"], None),
    ],
)  # fmt: skip
def test_the_config_of_weights_that_are_named_by_themselves(
    tmp_path: Path, names: list[str], config: str | None
) -> None:
    folder = tmp_path / "a"
    put(folder, *names)
    files = files_at(folder / names[0])
    assert files is not None
    assert files.config_file == (None if config is None else folder / config)


def test_a_layout_is_whole_or_not_there(tmp_path: Path) -> None:
    layout = FolderLayout("cfg.json", "deep/sae.pt")
    put(tmp_path, "deep/sae.pt")
    assert layout.files_in(tmp_path) is None
    put(tmp_path, "cfg.json")
    assert layout.files_in(tmp_path) == (tmp_path / "deep" / "sae.pt", tmp_path / "cfg.json")


def test_the_nearest_config_is_taken(tmp_path: Path) -> None:
    layout = ConfigLocation("{stem}.yaml", r"runs/\w+\.pt", levels_up=(0, 2))
    weights = tmp_path / "runs" / "a.pt"
    put(tmp_path, "runs/a.pt", "a.yaml")
    assert layout.file_of(weights) is None
    put(tmp_path.parent, "a.yaml")
    assert layout.file_of(weights) == tmp_path.parent / "a.yaml"
    put(tmp_path, "runs/a.yaml")
    assert layout.file_of(weights) == tmp_path / "runs" / "a.yaml"
    assert layout.file_of(tmp_path / "other" / "a.pt") is None
    assert ConfigLocation("a.json", r".*", levels_up=(9,)).file_of(Path("a.pt")) is None
