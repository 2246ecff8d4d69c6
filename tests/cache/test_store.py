"""The cache of one process: bit for bit or nothing, and within its limit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import safetensors
import safetensors.torch
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.cache import Cache, CacheError, Entry, chosen_root, default_root
from sae_guard.cache.tensor_file import DTYPES

KEY = "0123456789abcdef"
DESCRIPTION = {"model": {"name": "gpt2"}, "corpus": {"n_sequences": 2}}
TENSORS = {"x": torch.arange(6).view(2, 3), "y": torch.tensor([True, False])}


def make_entry(root: Path, number: int = 0, limit: int = 2**40) -> Entry:
    """The entry of this number."""
    return Cache(root, limit).entry(f"{number:016x}", DESCRIPTION)


@contextmanager
def new_entry() -> Iterator[Entry]:
    """An entry for one example of Hypothesis."""
    with TemporaryDirectory() as folder:
        yield make_entry(Path(folder) / "cache")


def content(entry: Entry, name: str) -> Path:
    """Where the file lies."""
    return entry.folder / "files" / f"{name}.safetensors"


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, list[int]]:
    """Everything of a tensor; NaN payloads too."""
    return tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).tolist()


def entry_bytes(folder: Path) -> int:
    """What the entry's files hold, counted another way than the cache does."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@st.composite
def any_tensors(draw: st.DrawFn) -> Tensor:
    """Any bits in any shape of any dtype."""
    dtype = getattr(torch, draw(st.sampled_from(sorted(DTYPES))))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        raw = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    else:
        n_bytes = count * dtype.itemsize
        raw = list(draw(st.binary(min_size=n_bytes, max_size=n_bytes)))
    tensor = torch.tensor(raw, dtype=torch.uint8).view(dtype).view(shape)
    # Transposed: contiguous neither when it is written nor when it is compared.
    return tensor.mT if tensor.dim() > 1 and draw(st.booleans()) else tensor


METADATA_KEYS = st.text(max_size=8).filter(lambda key: key != "xxh3_128")
TENSOR_NAMES = st.text(max_size=8).filter(lambda name: name != "__metadata__")


@given(
    st.dictionaries(TENSOR_NAMES, any_tensors(), max_size=4),
    st.dictionaries(METADATA_KEYS, st.text(max_size=20), max_size=3),
)
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read_bit_for_bit(
    tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    with new_entry() as entry:
        entry.write("shards/blocks.8.hook_in/00012", tensors, metadata)
        found = entry.read("shards/blocks.8.hook_in/00012")
    assert found is not None
    assert found.metadata == metadata
    assert {name: bits(t) for name, t in found.tensors.items()} == {
        name: bits(t) for name, t in tensors.items()
    }


@given(st.dictionaries(TENSOR_NAMES, any_tensors(), max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_file_is_one_that_the_safetensors_library_reads_alike(
    tensors: dict[str, Tensor],
) -> None:
    with new_entry() as entry:
        entry.write("a", tensors, {"step": "3"})
        theirs = safetensors.torch.load(content(entry, "a").read_bytes())
        with safetensors.safe_open(content(entry, "a"), "pt") as file:
            assert file.metadata()["step"] == "3"
    assert {name: bits(t) for name, t in theirs.items()} == {
        name: bits(t) for name, t in tensors.items()
    }


def test_parameters_and_conjugates_are_kept_as_their_values(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    pairs = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    with torch.inference_mode():
        inferred = torch.ones(3) * 2
    weights = torch.nn.Parameter(torch.ones(2))
    entry.write("a", {"w": weights, "conj": pairs.conj(), "imag": pairs.conj().imag, "i": inferred})
    found = entry.read("a")
    assert found is not None
    assert found["conj"].tolist() == [1 - 2j, 3 + 1j]
    assert found["imag"].tolist() == [-2, 1]
    assert found["i"].tolist() == [2, 2, 2]
    assert not found["w"].requires_grad


def test_what_was_read_stays_when_the_file_goes_or_changes(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    found = entry.read("a")
    with content(entry, "a").open("r+b") as file:
        file.write(bytes(content(entry, "a").stat().st_size))
        file.truncate(10)
    shutil.rmtree(tmp_path)
    assert found is not None
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_flipped_bit_anywhere_reads_as_none_and_the_file_goes(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS, {"of": "a"})
    path = content(entry, "a")
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert entry.read("a") is None, position
        assert not entry.has("a")
    entry.write("a", TENSORS)
    assert entry.read("a") is not None


def test_a_file_cut_anywhere_or_lengthened_reads_as_none(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    path = content(entry, "a")
    whole = path.read_bytes()
    for damaged in [*(whole[:n] for n in range(len(whole))), whole + b"\0", whole * 2]:
        path.write_bytes(damaged)
        assert entry.read("a") is None, len(damaged)
        assert not entry.has("a")


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_garbage_reads_as_none(garbage: bytes) -> None:
    with new_entry() as entry:
        content(entry, "a").parent.mkdir(parents=True)
        content(entry, "a").write_bytes(garbage)
        assert entry.read("a") is None
        assert not entry.has("a")


HEADERS = [
    "",
    "[]",
    "{",
    "[" * 100_000,
    '"x":7',
    '"x":{}',
    '"x":{"dtype":"F32","shape":[2],"data_offsets":[0]}',
    '"x":{"dtype":"F32","shape":[2],"data_offsets":[0,"8"]}',
    '"x":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999999]}',
    '"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}',
    '"x":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,8]}',
    '"x":{"dtype":"F32","shape":[9999999999999999999999],"data_offsets":[0,8]}',
    '"x":{"dtype":"F32","shape":"2","data_offsets":[0,8]}',
    '"x":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}',
]


def forge(entry: Entry, rows: str) -> None:
    """Write a file ``a`` of 8 zero bytes with this header and the checksum that it needs."""
    opening = b'{"__metadata__":{"xxh3_128":"'
    closing = f'"}},{rows}}}'.encode()
    closing += b" " * (-(8 + len(opening) + 32 + len(closing)) % 8)
    start = (len(opening) + 32 + len(closing)).to_bytes(8, "little") + opening
    checked = f"{entry.key}/a\0".encode() + start + closing + bytes(8)
    checksum = xxhash.xxh3_128(checked).hexdigest().encode()
    content(entry, "a").parent.mkdir(parents=True, exist_ok=True)
    content(entry, "a").write_bytes(start + checksum + closing + bytes(8))


@pytest.mark.parametrize("rows", HEADERS)
def test_a_malformed_header_with_a_right_checksum_reads_as_none(tmp_path: Path, rows: str) -> None:
    entry = make_entry(tmp_path)
    forge(entry, '"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}')
    found = entry.read("a")
    assert found is not None
    assert found["x"].tolist() == [0, 0]
    forge(entry, rows)
    assert entry.read("a") is None


def test_a_file_under_another_name_or_key_reads_as_none(tmp_path: Path) -> None:
    one, other = make_entry(tmp_path, 1), make_entry(tmp_path, 2)
    one.write("a", TENSORS)
    whole = content(one, "a").read_bytes()
    for path in (content(one, "b"), content(other, "a")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
    assert one.read("b") is None
    assert other.read("a") is None
    assert one.read("a") is not None


def obstruct_by_folder(path: Path) -> None:
    path.unlink()
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text("here")


def obstruct_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def obstruct_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize(
    "obstruct", [obstruct_by_folder, obstruct_by_pipe, obstruct_by_dangling_link]
)
def test_what_is_no_file_reads_as_none_and_is_written_over(
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


def test_a_name_may_be_the_beginning_of_another(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    for name in ("runs", "runs/3fa9", "runs/3fa9/0", "runs.x", "a+b=c@d-e_f"):
        entry.write(name, {}, {"name": name})
    for name in ("runs", "runs/3fa9", "runs/3fa9/0", "runs.x", "a+b=c@d-e_f"):
        found = entry.read(name)
        assert found is not None
        assert found.metadata == {"name": name}
    entry.remove("runs/3fa9")
    entry.remove("runs/3fa9")
    assert not entry.has("runs/3fa9")
    assert entry.has("runs/3fa9/0")


BAD_NAMES = [
    "", "/", "..", ".", "a/..", "../a", "/etc/x", "a//b", "a/", ".hidden", "a/.b", "a\\b", "a:b",
    "a b", "a\0", "a\n", "é", "a" * 201, "~", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_hide_in_it_are_refused(tmp_path: Path, name: str) -> None:
    entry = make_entry(tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: entry.has(name),
        lambda: entry.read(name),
        lambda: entry.write(name, TENSORS),
        lambda: entry.remove(name),
        lambda: entry.lock(name).__enter__(),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="is no name of a file"):
            use()


@pytest.mark.parametrize("key", ["", "0" * 15, "0" * 65, "A" * 16, "g" * 16, "../" + "0" * 16])
def test_keys_are_hexadecimal(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        Cache(tmp_path).entry(key, {})


def test_what_cannot_be_kept_is_refused_and_leaves_what_was_there(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    wide = {"x": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(ValueError, match="'x' is complex128; allowed: float64, "):
        entry.write("a", wide)
    with pytest.raises(ValueError, match="no metadata key"):
        entry.write("a", TENSORS, {"xxh3_128": "mine"})
    with pytest.raises(ValueError, match="no tensor's name"):
        entry.write("a", {"__metadata__": torch.zeros(1)})
    assert entry.read("a") is not None
    assert list((entry.folder / "partial").iterdir()) == []


def test_a_longest_name_can_be_written_and_locked(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    with entry.lock("a" * 200):
        entry.write("a" * 200, TENSORS)
    assert entry.read("a" * 200) is not None


def used_at(entry: Entry, seconds: int) -> None:
    """Set the time of the last use."""
    os.utime(entry.folder / "entry.json", (seconds, seconds))


def test_entries_are_listed_by_last_use_with_what_they_hold(tmp_path: Path) -> None:
    entries = [make_entry(tmp_path, number) for number in range(4)]
    for number, entry in enumerate(entries):
        entry.write("a", {"x": torch.zeros(number, 1000)})
        used_at(entry, 1000 + number)
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
def test_reserve_makes_room_at_the_cost_of_the_least_recently_used_others(
    sizes: list[int], limit: int, n_bytes: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        entries = [make_entry(Path(folder), number, limit) for number in range(len(sizes))]
        order = data.draw(st.permutations(range(len(sizes))))
        for number, entry in enumerate(entries):
            entry.write("a", {"x": torch.zeros(sizes[number], dtype=torch.uint8)})
            used_at(entry, 1000 + order[number])
        mine = data.draw(st.sampled_from(entries))
        held = {entry.key: entry_bytes(entry.folder) for entry in entries}
        others = sorted((e for e in entries if e != mine), key=lambda e: order[int(e.key, 16)])

        fits = mine.reserve(n_bytes)

        left = {stored.key for stored in mine.cache.entries()}
        assert fits == (held[mine.key] + n_bytes <= limit)
        # By definition: of the ways to drop the first k others, the first one that fits.
        ways = [{mine.key, *(e.key for e in others[k:])} for k in range(len(others) + 1)]
        fitting = [way for way in ways if sum(held[k] for k in way) + n_bytes <= limit]
        assert left == (fitting[0] if fits else set(held))
        assert all(e.read("a") is not None for e in entries if e.key in left)


def test_clear_removes_everything_and_says_how_much(tmp_path: Path) -> None:
    entries = [make_entry(tmp_path / "cache", number) for number in range(3)]
    for entry in entries:
        entry.write("a", TENSORS)
    held = sum(entry_bytes(entry.folder) for entry in entries)
    with entries[0].lock("a"):
        assert Cache(tmp_path / "cache").clear() >= held
        assert Cache(tmp_path / "cache").entries() == []
        assert list((tmp_path / "cache" / "v1").iterdir()) == []
        assert entries[0].read("a") is None
        entries[0].write("a", TENSORS)
    assert Cache(tmp_path / "cache").entries()[0].description == DESCRIPTION
    assert Cache(tmp_path / "none").clear() == 0
    assert Cache(tmp_path / "none").entries() == []
    assert not (tmp_path / "none").exists()


def test_a_writer_in_a_root_that_was_removed_makes_a_cache_again(tmp_path: Path) -> None:
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


def test_a_good_file_in_place_of_the_damaged_one_that_was_read_stays(
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


def test_a_tag_that_another_process_took_for_an_orphan_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    taken: list[str] = []

    def replace_what_was_taken(source: str, target: Path) -> None:
        if not taken:
            os.unlink(source)
            taken.append(source)
        replace(source, target)

    monkeypatch.setattr("os.replace", replace_what_was_taken)
    make_entry(tmp_path).write("a", TENSORS)
    assert "CACHEDIR.TAG" in taken[0]
    assert make_entry(tmp_path).read("a") is not None


def test_partial_files_of_killed_writers_go(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    partial = entry.folder / "partial"
    left = [partial / f".files,{name}.safetensors.{'0' * 32}" for name in ("a", "a.b", "b")]
    for path in left:
        path.write_bytes(b"half")
    entry.write("a", TENSORS)
    assert sorted(partial.iterdir()) == left[1:]
    trash = entry.folder.with_name(f".{entry.key}.{'0' * 32}")
    trash.mkdir()
    (trash / "half").write_bytes(b"half")
    assert [stored.key for stored in entry.cache.entries()] == [entry.key]
    entry.cache.clear()
    assert list(entry.folder.parent.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_description_is_empty_and_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    entry = make_entry(tmp_path)
    (entry.folder / "entry.json").write_bytes(damage)
    assert entry.cache.entries()[0].description == {}
    make_entry(tmp_path)
    assert entry.cache.entries()[0].description == DESCRIPTION


def test_a_description_of_paths_that_are_no_text_is_written_and_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"models/\xff\xc3\xa9")
    Cache(tmp_path).entry(KEY, {"model": name})
    assert Cache(tmp_path).entries()[0].description == {"model": name}
    lines = (tmp_path / "v1" / KEY / "entry.json").read_text(encoding="utf-8")
    assert "é" in lines


def test_someone_elses_folder_is_neither_used_nor_cleared(tmp_path: Path) -> None:
    release = tmp_path / "v1" / KEY / "sae.safetensors"
    release.parent.mkdir(parents=True)
    release.write_text("a year's work")
    cache = Cache(tmp_path)
    uses: list[Callable[[], object]] = [cache.clear, cache.entries, lambda: cache.entry(KEY, {})]
    for use in uses:
        with pytest.raises(CacheError, match=r"is no cache: it holds other things and no CACHEDIR"):
            use()
    (tmp_path / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# pip")
    for use in uses:
        with pytest.raises(CacheError, match=r"is no cache"):
            use()
    assert release.read_text() == "a year's work"


def test_a_file_in_place_of_a_folder_is_a_cache_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for root in (file, file / "below"):
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


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.setenv("SAE_GUARD_CACHE", "~/here")
    assert default_root() == Path.home() / "here"
    monkeypatch.setenv("SAE_GUARD_CACHE", "")
    assert default_root().name == "sae-guard"
    assert default_root().is_absolute()


def test_the_folder_that_was_named_is_taken_before_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", str(tmp_path))
    assert chosen_root(None) == tmp_path
    assert chosen_root("~/here") == Path.home() / "here"
    assert chosen_root("off") is None
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    assert chosen_root(None) is None
    assert chosen_root("here") == Path("here")
