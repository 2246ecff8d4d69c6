"""Patterns → checkpoints → labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.checkpoints.locate import find
from sae_guard.errors import SetupError
from tests.helpers.checkpoint_files import example_sae, write_saelens


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    for name in ("v1", "v2"):
        write_saelens(tmp_path / name, example_sae())
    (tmp_path / "plain.pt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("v1", ["v1"]),
        ("v1/cfg.json", ["v1"]),
        ("v1/sae_weights.safetensors", ["v1"]),
        ("v*", ["v1", "v2"]),
        ("*", ["plain.pt", "v1", "v2"]),
        ("**/*.safetensors", ["v1", "v2"]),
        ("plain.pt", ["plain.pt"]),
        ("notes.txt", ["notes.txt"]),  # named on purpose: loading it says why not
        ("note*", ["notes.txt"]),
    ],
)
def test_find(releases: Path, pattern: str, names: list[str]) -> None:
    assert find(pattern, releases) == [releases / name for name in names]


def test_a_path_with_the_characters_of_a_glob(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae[1]", example_sae())
    assert find("sae[1]", tmp_path) == [tmp_path / "sae[1]"]


def test_nothing_found_names_what_is_there(releases: Path) -> None:
    with pytest.raises(SetupError, match=r"no checkpoint at .*v3; .*plain\.pt, v1, v2"):
        find("v3", releases)
