"""Keys of a spec that are left out or abbreviated mean their defaults and long forms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.specs import load_specs
from tests.helpers.spec_texts import GOOD, write


def test_defaults_and_shorthands(tmp_path: Path) -> None:
    text = GOOD.replace("text: a.txt", "dataset: some/pile")
    (spec,) = load_specs(write(tmp_path, text))
    assert spec.model.model_dump() == {
        "name": "gpt2",
        "dtype": "float32",
        "processing": "raw",
        "revision": None,
        "aliases": (),
        "device_map": None,
    }
    assert spec.data.dataset is not None
    assert (spec.data.dataset.path, spec.data.dataset.split) == ("some/pile", "train")
    assert spec.sae == SaeOptions()
    hash(spec)


def test_tokens_have_their_own_default_field(tmp_path: Path) -> None:
    (spec,) = load_specs(write(tmp_path, GOOD.replace("text: a.txt", "tokens: a.jsonl")))
    assert spec.data.column == "input_ids"


@pytest.mark.parametrize(
    ("device_map", "placement"),
    [
        ("auto", "auto"),
        ("cuda:1", "cuda:1"),
        ('{"": cpu}', {"": "cpu"}),
        (
            "{model.layers.0: 0, model.layers.1: disk}",
            {"model.layers.0": 0, "model.layers.1": "disk"},
        ),
    ],
)
def test_a_device_map_is_passed_on_as_transformers_takes_it(
    tmp_path: Path, device_map: str, placement: object
) -> None:
    text = GOOD.replace("model: gpt2", f"model: {{name: gpt2, device_map: {device_map}}}")
    (spec,) = load_specs(write(tmp_path, text))
    assert spec.model.placement == placement
    hash(spec)


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [("gpt2", False), ("./gpt2", True), ("../gpt2", True), ("/m/gpt2", True), ("here", True)],
)
def test_a_model_folder_is_relative_to_the_spec(tmp_path: Path, name: str, is_folder: bool) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text("{}")
    (spec,) = load_specs(write(tmp_path, GOOD.replace("gpt2", name)))
    expected = Path(os.path.normpath(tmp_path / name)) if is_folder else name
    assert spec.model.path_or_name(tmp_path) == expected
