"""Tests of `sae_guard.release.members`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.errors import SetupError
from sae_guard.release import members as room
from sae_guard.release.manifest import FILE_NAME
from sae_guard.release.members import Member, members


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def names(result: list[Member]) -> dict[str, str]:
    return {member.name: member.named_by for member in result}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of two layers with two SAEs each, as plain files."""
    for layer in (0, 1):
        for k in (16, 32):
            file(tmp_path / "v2" / f"layer_{layer}" / f"k{k}.safetensors")
    return tmp_path


@pytest.fixture
def listed(release: Path) -> Path:
    (release / "v2" / FILE_NAME).write_text(
        "version: v2\nmembers:\n  a/16: layer_0/k16.safetensors\n  a/32: layer_0/k32.safetensors\n"
    )
    return release


def test_a_path_gives_its_last_component_whatever_else_runs(release: Path) -> None:
    alone = members(["v2/layer_0/k16.safetensors"], release)
    together = members(["v2/layer_0/*.safetensors"], release)
    assert names(alone) == {"k16": "path"}
    assert names(together) == {"k16": "path", "k32": "path"}


def test_only_suffixes_of_weights_are_dropped(tmp_path: Path) -> None:
    for name, expected in {"v1.0.pkl.gz": "v1.0", "gpt2.layer8.pt": "gpt2.layer8"}.items():
        file(tmp_path / name)
        assert names(members([name], tmp_path)) == {expected: "path"}


def test_a_name_in_a_file_stays(tmp_path: Path) -> None:
    file(tmp_path / "saes.pt")
    assert names(members(["saes.pt#x", "saes.pt#y"], tmp_path)) == {
        "saes#x": "path", "saes#y": "path",
    }  # fmt: skip


def test_the_path_below_the_root_folder_is_the_name(release: Path) -> None:
    result = members(["v2/*/*.safetensors"], release, root=release / "v2")
    assert names(result) == dict.fromkeys(
        ("layer_0/k16", "layer_0/k32", "layer_1/k16", "layer_1/k32"), "root"
    )


def test_a_manifest_names_what_it_lists_and_comes_before_the_root_folder(listed: Path) -> None:
    result = members(["v2/layer_0/k32.safetensors"], listed, root=listed)
    assert names(result) == {"a/32": "manifest"}


def test_a_folder_with_a_manifest_stands_for_all_its_members(listed: Path) -> None:
    assert names(members(["v2"], listed)) == {"a/16": "manifest", "a/32": "manifest"}


def test_a_checkpoint_that_its_manifest_does_not_list_is_an_error(listed: Path) -> None:
    with pytest.raises(SetupError, match="does not list it; allowed: a/16, a/32"):
        members(["v2/layer_1/k16.safetensors"], listed)


def test_a_user_names_a_checkpoint(listed: Path) -> None:
    result = members([], listed, named={"wide": "v2/layer_1/k32.safetensors"})
    assert names(result) == {"wide": "option"}
    with pytest.raises(SetupError, match="names 2 checkpoints"):
        members([], listed, named={"wide": "v2/layer_1/*.safetensors"})


def test_two_stated_names_of_one_file_are_an_error(listed: Path) -> None:
    with pytest.raises(SetupError, match="one name"):
        members(["v2"], listed, named={"wide": "v2/layer_0/k32.safetensors"})


def test_a_link_to_a_checkpoint_is_not_measured_beside_it(release: Path) -> None:
    (release / "v2" / "layer_0" / "a_latest.safetensors").symlink_to("k16.safetensors")
    result = members(["v2/layer_0/*.safetensors"], release)
    assert names(result) == {"k16": "path", "k32": "path"}
    assert names(members(["v2/layer_0/a_latest.safetensors"], release)) == {"a_latest": "path"}


def test_published_saes_go_by_their_path_and_never_by_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoints = {
        "hf://org/repo/layer_8/k16.safetensors@v2": Checkpoint(
            tmp_path / "snapshots/0a/layer_8/k16.safetensors", None,
            "hf://org/repo/layer_8/k16.safetensors@0a", "layer_8/k16.safetensors",
        ),
        "sae_lens://release/blocks.8": Checkpoint(
            tmp_path / "snapshots/0a/x", None, "hf://org/repo/x@0a", "blocks.8"
        ),
        "hf://org/gpt2-sae": Checkpoint(
            tmp_path / "snapshots/0b", None, "hf://org/gpt2-sae@0b", ""
        ),
    }  # fmt: skip
    monkeypatch.setattr(room, "resolve", lambda text, base: [checkpoints[text]])
    assert names(members(list(checkpoints), tmp_path)) == {
        "layer_8/k16": "hub", "blocks.8": "hub", "gpt2-sae": "path",
    }  # fmt: skip
