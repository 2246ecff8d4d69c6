"""Files are written and removed atomically, whatever is in their place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sae_guard.cache import Cache, CacheError
from tests.helpers.cache_entries import KEY, TENSORS, content, make_entry


def obstruct_by_folder(path: Path) -> None:
    path.unlink()
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text("obstacle")


def obstruct_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def obstruct_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize(
    "obstruct", [obstruct_by_folder, obstruct_by_pipe, obstruct_by_dangling_link]
)
def test_an_obstacle_in_place_of_a_file_reads_as_none_and_is_replaced(
    tmp_path: Path, obstruct: Callable[[Path], None]
) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    obstruct(content(entry, "a"))
    assert not entry.has("a")
    assert entry.read("a") is None
    entry.write("a", TENSORS)
    assert entry.read("a") is not None
    obstruct(content(entry, "a"))
    entry.remove("a")
    assert not os.path.lexists(content(entry, "a"))


def test_a_tag_is_written_again_if_its_partial_file_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    removed: list[str] = []

    def replace_after_removal(source: str, target: Path) -> None:
        if not removed:  # another process takes the file for that of a killed writer
            os.unlink(source)
            removed.append(source)
        replace(source, target)

    monkeypatch.setattr("os.replace", replace_after_removal)
    make_entry(tmp_path).write("a", TENSORS)
    assert "CACHEDIR.TAG" in removed[0]
    assert make_entry(tmp_path).read("a") is not None


def test_partial_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    partial = entry.folder / "partial"
    orphans = [partial / f".files,{name}.safetensors.{'0' * 32}" for name in ("a", "a.b", "b")]
    for path in orphans:
        path.write_bytes(b"half")
    entry.write("a", TENSORS)
    assert sorted(partial.iterdir()) == orphans[1:]  # those of other files stay
    trash = entry.folder.with_name(f".{entry.key}.{'0' * 32}")
    trash.mkdir()
    (trash / "half").write_bytes(b"half")
    assert [stored.key for stored in entry.cache.entries()] == [entry.key]
    entry.cache.clear()
    assert list(entry.folder.parent.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_a_cache_error_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for root in (file, file / "subfolder"):
        with pytest.raises(CacheError, match=rf"cannot use {file}.*: Not a directory"):
            Cache(root).entry(KEY, {})
        with pytest.raises(CacheError, match="Not a directory"):
            Cache(root).clear()
    entry = make_entry(tmp_path / "cache")
    entry.write("a", TENSORS)
    shutil.rmtree(entry.folder)
    entry.folder.write_text("")
    assert entry.read("a") is None
    assert not entry.has("a")
    with pytest.raises(CacheError, match=entry.key):
        entry.write("a", TENSORS)
    with pytest.raises(CacheError, match=entry.key), entry.lock("a"):
        pass
    entry.cache.clear()
    entry.write("a", TENSORS)
    assert entry.read("a") is not None
