"""``sae-guard release`` writes the manifest of a release."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sae_guard.cli import main
from sae_guard.release.manifest import FILE_NAME, load
from sae_guard.release.members import members


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release of two layers, one of them a folder checkpoint of two files."""
    (tmp_path / "layer_0" / "k16").mkdir(parents=True)
    (tmp_path / "layer_0" / "k16" / "cfg.json").write_text("{}")
    (tmp_path / "layer_0" / "k16" / "sae_weights.safetensors").write_bytes(b"")
    (tmp_path / "layer_1").mkdir()
    (tmp_path / "layer_1" / "k16.safetensors").write_bytes(b"")
    (tmp_path / "README.md").write_text("a release")
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["release", *map(str, arguments)])


def test_every_checkpoint_below_the_folder_is_a_member(folder: Path) -> None:
    result = run(folder, "--as", "v2.0", "--removed", "layer_2/k16", "--formerly", "layer_1/k16=x")
    assert result.exit_code == 0, result.output
    assert "v2.0, 2 members" in result.output
    manifest = load(folder / FILE_NAME)
    assert manifest.version == "v2.0"
    assert manifest.members == {
        "layer_0/k16": "layer_0/k16", "layer_1/k16": "layer_1/k16.safetensors",
    }  # fmt: skip
    assert (manifest.formerly, manifest.removed) == ({"layer_1/k16": "x"}, ["layer_2/k16"])
    named = members([str(folder)], Path("/"))
    assert [(member.name, member.named_by) for member in named] == [
        ("layer_0/k16", "manifest"), ("layer_1/k16", "manifest"),
    ]  # fmt: skip


def test_a_manifest_is_replaced_only_by_force(folder: Path) -> None:
    assert run(folder, "--as", "v1").exit_code == 0
    result = run(folder, "--as", "v2")
    assert result.exit_code == 1
    assert "--force replaces it" in result.output
    assert run(folder, "--as", "v2", "--force").exit_code == 0
    assert load(folder / FILE_NAME).version == "v2"


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--as", "v 1"], "no name of a version"),
        (["--as", "v1", "--formerly", "a"], "expected NEW=OLD"),
        (["--as", "v1", "--formerly", "a=b"], "`formerly.a` is no member"),
        (["--as", "v1", "--removed", "layer_0/k16"], "is removed, but a member"),
    ],
)
def test_what_contradicts_itself_is_refused(folder: Path, arguments: list[str], fact: str) -> None:
    result = run(folder, *arguments)
    assert result.exit_code != 0
    assert fact in result.output
    assert not (folder / FILE_NAME).exists()


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "--as", "v1")
    assert result.exit_code == 1
    assert "no checkpoint" in result.output
