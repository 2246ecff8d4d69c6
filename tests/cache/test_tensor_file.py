"""A file of tensors is read bit for bit, or not at all if it is damaged."""

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
    """Return dtype, shape and bytes of a tensor, which tell NaNs apart too."""
    return tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).tolist()


@st.composite
def any_tensors(draw: st.DrawFn) -> Tensor:
    """Draw tensors of any dtype and shape, with any bits."""
    dtype = getattr(torch, draw(st.sampled_from(sorted(DTYPES))))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        raw = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    else:
        n_bytes = count * dtype.itemsize
        raw = list(draw(st.binary(min_size=n_bytes, max_size=n_bytes)))
    tensor = torch.tensor(raw, dtype=torch.uint8).view(dtype).view(shape)
    # A transposed tensor is not contiguous.
    return tensor.mT if tensor.dim() > 1 and draw(st.booleans()) else tensor


METADATA_KEYS = st.text(max_size=8).filter(lambda key: key != "xxh3_128")
TENSOR_NAMES = st.text(max_size=8).filter(lambda name: name != "__metadata__")


@given(
    st.dictionaries(TENSOR_NAMES, any_tensors(), max_size=4),
    st.dictionaries(METADATA_KEYS, st.text(max_size=20), max_size=3),
)
@settings(max_examples=80, deadline=None)
def test_tensors_and_metadata_are_read_as_they_were_written(
    tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    with new_entry() as entry:
        entry.write("shards/blocks.8.hook_in/00012", tensors, metadata)
        contents = entry.read("shards/blocks.8.hook_in/00012")
    assert contents is not None
    assert contents.metadata == metadata
    assert {name: bits(t) for name, t in contents.tensors.items()} == {
        name: bits(t) for name, t in tensors.items()
    }


@given(st.dictionaries(TENSOR_NAMES, any_tensors(), max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_safetensors_library_reads_the_same_tensors(
    tensors: dict[str, Tensor],
) -> None:
    with new_entry() as entry:
        entry.write("a", tensors, {"step": "3"})
        expected = safetensors.torch.load(content(entry, "a").read_bytes())
        with safetensors.safe_open(content(entry, "a"), "pt") as file:
            assert file.metadata()["step"] == "3"
    assert {name: bits(t) for name, t in expected.items()} == {
        name: bits(t) for name, t in tensors.items()
    }


def test_parameters_and_conjugates_are_written_as_their_values(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    pairs = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    with torch.inference_mode():
        inferred = torch.ones(3) * 2
    weights = torch.nn.Parameter(torch.ones(2))
    entry.write("a", {"w": weights, "conj": pairs.conj(), "imag": pairs.conj().imag, "i": inferred})
    contents = entry.read("a")
    assert contents is not None
    assert contents["conj"].tolist() == [1 - 2j, 3 + 1j]
    assert contents["imag"].tolist() == [-2, 1]
    assert contents["i"].tolist() == [2, 2, 2]
    assert not contents["w"].requires_grad


def test_a_file_with_any_flipped_bit_reads_as_none_and_is_removed(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS, {"of": "a"})
    path = content(entry, "a")
    intact = path.read_bytes()
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert entry.read("a") is None, position
        assert not entry.has("a")
    entry.write("a", TENSORS)
    assert entry.read("a") is not None


def test_a_truncated_or_lengthened_file_reads_as_none(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    path = content(entry, "a")
    intact = path.read_bytes()
    for damaged in [*(intact[:n] for n in range(len(intact))), intact + b"\0", intact * 2]:
        path.write_bytes(damaged)
        assert entry.read("a") is None, len(damaged)
        assert not entry.has("a")


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_random_bytes_read_as_none(garbage: bytes) -> None:
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
    """Write a file ``a`` of 8 zero bytes with this header and the right checksum."""
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
    contents = entry.read("a")
    assert contents is not None
    assert contents["x"].tolist() == [0, 0]
    forge(entry, rows)
    assert entry.read("a") is None


def test_a_file_copied_to_another_name_or_key_reads_as_none(tmp_path: Path) -> None:
    one, other = make_entry(tmp_path, 1), make_entry(tmp_path, 2)
    one.write("a", TENSORS)
    intact = content(one, "a").read_bytes()
    for path in (content(one, "b"), content(other, "a")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(intact)
    assert one.read("b") is None
    assert other.read("a") is None
    assert one.read("a") is not None


def test_a_dtype_or_name_that_is_not_allowed_leaves_the_old_file(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    entry.write("a", TENSORS)
    wide = {"x": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(ValueError, match="'x' is complex128; allowed: float64, "):
        entry.write("a", wide)
    with pytest.raises(ValueError, match="metadata key 'xxh3_128'"):
        entry.write("a", TENSORS, {"xxh3_128": "mine"})
    with pytest.raises(ValueError, match="tensor name '__metadata__'"):
        entry.write("a", {"__metadata__": torch.zeros(1)})
    assert entry.read("a") is not None
    assert list((entry.folder / "partial").iterdir()) == []
