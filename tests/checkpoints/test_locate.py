"""Patterns → checkpoints → labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.checkpoints.locate import find, labels
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


def test_labels_are_as_short_as_they_can_be() -> None:
    paths = [Path("/a/v1"), Path("/b/v1"), Path("/b/v2"), Path("/c/ae.pt")]
    assert list(labels(paths).values()) == ["a/v1", "b/v1", "v2", "ae"]
    assert list(labels([Path("/a/ae.pt"), Path("/a/ae.safetensors")]).values()) == [
        "/a/ae.pt",
        "/a/ae.safetensors",
    ]
    assert labels([Path("/a/gpt2.layer8")]) == {Path("/a/gpt2.layer8"): "gpt2.layer8"}


parts = st.lists(st.sampled_from(["a", "b", "ae.pt", "ae.safetensors"]), min_size=1, max_size=4)


@given(st.lists(parts, min_size=1, max_size=6))
def test_labels_tell_paths_apart(drawn: list[list[str]]) -> None:
    paths = [Path("/", *path) for path in drawn]
    assert len(set(labels(paths).values())) == len(set(paths))
