"""Tests of `sae_guard.release.manifest`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.errors import SpecError
from sae_guard.release.manifest import FILE_NAME, Manifest, load, nearest, to_yaml


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    return folder / FILE_NAME


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest(
        tmp_path / FILE_NAME,
        "v2.0",
        {"layer_0/k16": "layer_0/k16", "ä": "hf://org/repo/ä@v2"},
        {"ä": "a"},
        ["layer_1/k16"],
    )
    write(tmp_path, to_yaml(manifest))
    assert load(tmp_path / FILE_NAME) == manifest


def test_the_nearest_manifest_at_or_above_the_checkpoint_counts(tmp_path: Path) -> None:
    write(tmp_path, "version: v1\nmembers: {a: a}\n")
    write(tmp_path / "inner", "version: v2\nmembers: {b: b}\n")
    for path, version in (("inner/b", "v2"), ("inner", "v2"), ("a", "v1")):
        file = nearest(tmp_path / path)
        assert file is not None
        assert load(file).version == version


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", ["1: expected one mapping"]),
        ("version: v1\n", ["`members` is missing"]),
        ("version: v1\nmembers: {}\n", ["2: `members`", "at least one"]),
        ("version: 1.0\nmembers: {a: a}\n", ["1: `version` is 1.0"]),
        ("version: v1\nmembers: {a: a}\nremove: [b]\n", ["3: unknown key 'remove'", "removed"]),
        ("version: v1\nmembers: {a: a}\nformerly: {b: c}\n", ["3: `formerly.b` is no member"]),
        (
            "version: v1\nmembers: {a: a, b: b}\nformerly: {b: a}\n",
            ["2 members were 'a' in the version before"],
        ),
        ("version: v1\nmembers: {a: a}\nremoved: [a]\n", ["3: 'a' is removed"]),
        ("version: v1\nmembers: {a: a, a: b}\n", ["2: "]),
    ],
)
def test_a_malformed_manifest_is_an_error_with_its_line(
    tmp_path: Path, text: str, facts: list[str]
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load(file)
    for fact in facts:
        assert fact in str(caught.value)
    assert str(file) in str(caught.value)
