"""A cache in one process returns files bit for bit or not at all, and stays within its limit."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_guard.cache import Cache, Entry
from tests.helpers.cache_entries import DESCRIPTION, KEY, TENSORS, content, make_entry


def entry_bytes(folder: Path) -> int:
    """Return the bytes of the entry's files, counted in another way than the cache does."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_loaded_tensors_stay_when_the_file_changes_or_is_removed(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    tensors = entry.read("a")
    with content(entry, "a").open("r+b") as file:
        file.write(bytes(content(entry, "a").stat().st_size))
        file.truncate(10)
    shutil.rmtree(tmp_path)
    assert tensors is not None
    assert tensors["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_name_can_be_the_prefix_of_another(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    for name in ("runs", "runs/3fa9", "runs/3fa9/0", "runs.x", "a+b=c@d-e_f"):
        entry.write(name, {}, {"name": name})
    for name in ("runs", "runs/3fa9", "runs/3fa9/0", "runs.x", "a+b=c@d-e_f"):
        contents = entry.read(name)
        assert contents is not None
        assert contents.metadata == {"name": name}
    entry.remove("runs/3fa9")
    entry.remove("runs/3fa9")
    assert not entry.has("runs/3fa9")
    assert entry.has("runs/3fa9/0")


BAD_NAMES = [
    "", "/", "..", ".", "a/..", "../a", "/etc/x", "a//b", "a/", ".hidden", "a/.b", "a\\b", "a:b",
    "a b", "a\0", "a\n", "é", "a" * 201, "~", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_outside_of_the_folder_or_hidden_are_errors(tmp_path: Path, name: str) -> None:
    entry = make_entry(tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: entry.has(name),
        lambda: entry.read(name),
        lambda: entry.write(name, TENSORS),
        lambda: entry.remove(name),
        lambda: entry.lock(name).__enter__(),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            use()


@pytest.mark.parametrize("key", ["", "0" * 15, "0" * 65, "A" * 16, "g" * 16, "../" + "0" * 16])
def test_a_key_that_is_not_hexadecimal_is_an_error(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key!r} .*allowed: 16 to 64 digits"):
        Cache(tmp_path).entry(key, {})


def test_the_longest_allowed_name_can_be_written_and_locked(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    with entry.lock("a" * 200):
        entry.write("a" * 200, TENSORS)
    assert entry.read("a" * 200) is not None


def set_last_use(entry: Entry, seconds: int) -> None:
    """Set the time of the last use."""
    os.utime(entry.folder / "entry.json", (seconds, seconds))


def test_entries_are_listed_by_last_use_with_size_and_description(tmp_path: Path) -> None:
    entries = [make_entry(tmp_path, number) for number in range(4)]
    for number, entry in enumerate(entries):
        entry.write("a", {"x": torch.zeros(number, 1000)})
        set_last_use(entry, 1000 + number)
    listed = Cache(tmp_path).entries()
    assert [stored.key for stored in listed] == [entry.key for entry in entries]
    assert [stored.last_used for stored in listed] == [1000, 1001, 1002, 1003]
    assert [stored.bytes for stored in listed] == [entry_bytes(e.folder) for e in entries]
    assert listed[0].description == DESCRIPTION
    entries[0].read("a")
    entries[1].write("b", {})
    make_entry(tmp_path, 2)
    assert Cache(tmp_path).entries()[0].key == entries[3].key


@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=5),
    limit=st.integers(0, 20_000),
    n_bytes=st.integers(0, 20_000),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_reserve_evicts_the_least_recently_used_other_entries(
    sizes: list[int], limit: int, n_bytes: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        entries = [make_entry(Path(folder), number, limit) for number in range(len(sizes))]
        order = data.draw(st.permutations(range(len(sizes))))
        for number, entry in enumerate(entries):
            entry.write("a", {"x": torch.zeros(sizes[number], dtype=torch.uint8)})
            set_last_use(entry, 1000 + order[number])
        own = data.draw(st.sampled_from(entries))
        size = {entry.key: entry_bytes(entry.folder) for entry in entries}
        by_use = sorted((e for e in entries if e != own), key=lambda e: order[int(e.key, 16)])

        fits = own.reserve(n_bytes)

        remaining = {stored.key for stored in own.cache.entries()}
        assert fits == (size[own.key] + n_bytes <= limit)
        # By definition: evict the first n of the other entries, for the smallest n that fits.
        ways = [{own.key, *(e.key for e in by_use[n:])} for n in range(len(by_use) + 1)]
        fitting = [keys for keys in ways if sum(size[key] for key in keys) + n_bytes <= limit]
        assert remaining == (fitting[0] if fits else set(size))
        assert all(e.read("a") is not None for e in entries if e.key in remaining)


def test_clear_removes_all_entries_and_returns_their_bytes(tmp_path: Path) -> None:
    entries = [make_entry(tmp_path / "cache", number) for number in range(3)]
    for entry in entries:
        entry.write("a", TENSORS)
    size = sum(entry_bytes(entry.folder) for entry in entries)
    with entries[0].lock("a"):
        assert Cache(tmp_path / "cache").clear() >= size  # and the lock file
        assert Cache(tmp_path / "cache").entries() == []
        assert list((tmp_path / "cache" / "v1").iterdir()) == []
        assert entries[0].read("a") is None
        entries[0].write("a", TENSORS)
    assert Cache(tmp_path / "cache").entries()[0].description == DESCRIPTION
    assert Cache(tmp_path / "none").clear() == 0
    assert Cache(tmp_path / "none").entries() == []
    assert not (tmp_path / "none").exists()


def test_writing_after_the_root_was_removed_creates_a_tagged_cache(tmp_path: Path) -> None:
    entry = make_entry(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    entry.write("a", TENSORS)
    shutil.rmtree(tmp_path / "cache")
    with entry.lock("a"):
        pass
    make_entry(tmp_path / "cache")
    assert (
        (tmp_path / "cache" / "CACHEDIR.TAG")
        .read_bytes()
        .startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    )


def test_a_good_file_that_replaced_a_damaged_one_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)

    def read_while_another_writes(*_: object) -> None:
        entry.write("a", TENSORS)

    with monkeypatch.context() as patch:
        patch.setattr("sae_guard.cache.tensor_file.read", read_while_another_writes)
        assert entry.read("a") is None
    assert entry.read("a") is not None


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_description_is_empty_and_is_written_again(tmp_path: Path, damage: bytes) -> None:
    entry = make_entry(tmp_path)
    (entry.folder / "entry.json").write_bytes(damage)
    assert entry.cache.entries()[0].description == {}
    make_entry(tmp_path)
    assert entry.cache.entries()[0].description == DESCRIPTION


def test_a_description_with_a_path_that_is_not_utf8_is_preserved(tmp_path: Path) -> None:
    name = os.fsdecode(b"models/\xff\xc3\xa9")
    Cache(tmp_path).entry(KEY, {"model": name})
    assert Cache(tmp_path).entries()[0].description == {"model": name}
    lines = (tmp_path / "v1" / KEY / "entry.json").read_text(encoding="utf-8")
    assert "é" in lines
