"""A file of tensors is read bit for bit, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.cache import Entry
from sae_guard.cache.tensor_file import DTYPES
from tests.helpers.cache_entries import TENSORS, content, make_entry, new_entry


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, list[int]]:
    """Everything of a tensor; NaN payloads too."""
    return tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).tolist()


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
