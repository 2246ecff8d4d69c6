"""Every container is read as its own library reads it; hostile ones are in `tests/attacks`."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sae_guard.checkpoints.safe_pickle.inert import Record, Unpickler, check_plain
from sae_guard.checkpoints.safe_pickle.sizes import MIB, Stream, unpacked_limit
from sae_guard.checkpoints.tensor_files import read_entries, sha256
from sae_guard.errors import LoadError

OLD = {"_use_new_zipfile_serialization": False}
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16,
    torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip

DTYPES_OF_UNTYPED_STORAGES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)


def written(how: str, held: Any, path: Path) -> Path:
    """The object in a file, as one of four ways writes it."""
    if how == "zip":
        torch.save(held, path)
    elif how == "old":
        torch.save(held, path, **OLD)
    elif how == "gz":
        path.write_bytes(gzip.compress(pickle.dumps(held)))
    else:
        path.write_bytes(pickle.dumps(held, protocol=int(how[-1])))
    return path


WAYS = ["zip", "old", "gz", "protocol 2", "protocol 3", "protocol 4", "protocol 5"]


def variants(tensor: Tensor) -> dict[str, Tensor]:
    """Views and kinds of a matrix."""
    return {
        "whole": tensor,
        "transposed": tensor.T,
        "a row": tensor[2],
        "a column": tensor[:, 1],
        "every other": tensor[::2, 1::2],
        "one": tensor[0, 0],
        "none": tensor[:0],
        "empty": torch.empty(0, 7, dtype=tensor.dtype),
        "reshaped": tensor.reshape(2, -1),
        "bytes": tensor.clone(),
    }


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_that_torch_reads(tmp_path: Path, how: str, dtype: torch.dtype) -> None:
    held = variants((torch.randn(6, 4) * 3).to(dtype))
    path = written(how, held, tmp_path / "sae.pt")
    entries = read_entries(path)
    assert entries.keys() == held.keys()
    for name, tensor in held.items():
        found = entries[name]
        assert (found.dtype, found.shape) == (dtype, tensor.shape)
        assert found.stride() == tensor.stride() or 0 in tensor.shape
        assert found.contiguous().view(-1).view(torch.uint8).tolist() == (
            tensor.contiguous().view(-1).view(torch.uint8).tolist()
        )
    # torch 2.13 cannot read its own old files of the dtypes that have no class of storage.
    if how == "zip" or (how == "old" and dtype not in DTYPES_OF_UNTYPED_STORAGES):
        for name, tensor in torch.load(path, weights_only=True).items():
            assert torch.equal(tensor.to(torch.complex128), entries[name].to(torch.complex128))


@pytest.mark.parametrize("how", WAYS)
def test_plain_values_are_themselves(tmp_path: Path, how: str) -> None:
    shared = [1, 2]
    held = {
        "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**62, -(2**62), 2**100, 1.5, -0.0],
        "texts": ("", "a", "é", "x" * 300, "😀"),
        "bytes": [b"", b"ab", b"\x00\xff" * 200],
        "truths": [True, False, None],
        "sets": [{1, 2}, frozenset({"a"}), set()],
        "nested": {"a": {"b": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]}, 1: 2, 0.5: 1, None: 0},
        "ordered": OrderedDict(b=1, a=2),
        "shared": [shared, shared],
        "torch": [torch.float32, torch.bfloat16, torch.uint8],
    }
    assert read_entries(written(how, held, tmp_path / "sae.pkl")) == held


@pytest.mark.parametrize("how", WAYS)
def test_parameters_and_shared_tensors(tmp_path: Path, how: str) -> None:
    weight = nn.Parameter(torch.randn(3, 2))
    held = {"a": weight, "b": weight, "view": weight.data[1:], "grad": weight.data}
    entries = read_entries(written(how, held, tmp_path / "sae.pt"))
    assert torch.equal(entries["a"], weight.data)
    assert torch.equal(entries["b"], weight.data)
    assert torch.equal(entries["view"], weight.data[1:])
    assert not entries["a"].requires_grad
    if how in ("zip", "old"):
        assert entries["view"].data_ptr() == entries["a"][1:].data_ptr()


@pytest.mark.parametrize("how", WAYS)
def test_a_state_dict_with_the_versions_of_its_modules(tmp_path: Path, how: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    held = module.state_dict()
    entries = read_entries(written(how, held, tmp_path / "sae.pt"))
    assert list(entries) == list(held)
    assert all(torch.equal(entries[name], tensor) for name, tensor in held.items())


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_is_a_record_of_its_parts(tmp_path: Path, how: str) -> None:
    first = nn.Linear(3, 2)
    module = nn.Sequential(first, nn.BatchNorm1d(2))
    record = read_entries(written(how, module, tmp_path / "sae.pt"))["__record__"]
    assert isinstance(record, Record)
    assert (type(record).__module__, type(record).__name__) == (
        "torch.nn.modules.container",
        "Sequential",
    )
    linear = vars(record)["_modules"]["0"]
    assert torch.equal(vars(linear)["_parameters"]["weight"], first.weight)
    assert torch.equal(
        vars(vars(record)["_modules"]["1"])["_buffers"]["running_var"], torch.ones(2)
    )
    assert vars(linear)["in_features"] == 3


@pytest.mark.parametrize("how", WAYS)
def test_foreign_objects_in_a_config(tmp_path: Path, how: str) -> None:
    config = Namespace(
        d_in=6,
        device=torch.device("cuda:0"),
        dtype=torch.float32,
        shape=torch.Size([2, 3]),
        scale=np.float32(0.5),
        path=Path("a"),
        counts=defaultdict(int, a=1),
    )
    record = read_entries(written(how, {"cfg": config}, tmp_path / "sae.pkl"))["cfg"]
    assert isinstance(record, Record)
    facts = vars(record)
    assert (facts["d_in"], facts["dtype"], facts["shape"]) == (6, torch.float32, (2, 3))
    assert all(isinstance(facts[name], Record) for name in ("device", "scale", "path", "counts"))
    assert vars(facts["counts"])["__items__"] == {"a": 1}
    assert repr(record) == "<record of argparse.Namespace>"


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_at_the_top(tmp_path: Path, how: str, kind: Any) -> None:
    path = written(how, kind([torch.ones(2), {"l1": 0.1}]), tmp_path / "learned_dicts.pt")
    entries = read_entries(path)
    assert list(entries) == ["__list__"]
    assert entries["__list__"][1] == {"l1": 0.1}


@pytest.mark.parametrize("held", [torch.ones(2), 3, "text", None], ids=str)
def test_anything_else_is_refused(tmp_path: Path, held: Any) -> None:
    path = written("zip", held, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match=f"holds a {type(held).__name__}, expected a state dict"):
        read_entries(path)


def test_the_way_of_python_2(tmp_path: Path) -> None:
    path = tmp_path / "sae.pkl"
    path.write_bytes(b"\x80\x02}U\x01aT\x01\x00\x00\x00bs.")
    assert read_entries(path) == {"a": "b"}


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sae/constants.pkl", pickle.dumps(()))
        archive.writestr("sae/data.pkl", pickle.dumps({}))
    with pytest.raises(LoadError, match="a TorchScript archive is a program"):
        read_entries(path)


def test_containers_that_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    path.write_bytes(b"storages".ljust(257, b"\0") + b"ustar" + bytes(500))
    with pytest.raises(LoadError, match="a tar file, as torch wrote"):
        read_entries(path)
    path.write_bytes(b"(dp0\n.")
    with pytest.raises(LoadError, match="not as a zip file, a pickle or a gzip file does"):
        read_entries(path)
    torch.save({}, path)
    path.write_bytes(path.read_bytes().replace(b"little", b"big   "))
    with pytest.raises(LoadError, match=r"big-endian|checksum"):
        read_entries(path)
    path.write_bytes(pickle.dumps({}) * 2)
    with pytest.raises(LoadError, match="bytes follow the pickled object"):
        read_entries(path)


def test_a_conjugated_view_is_refused(tmp_path: Path) -> None:
    path = written("zip", {"a": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "sae.pt")
    with pytest.raises(LoadError, match="'conj': True"):
        read_entries(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "u2", "b1", "c8"])
def test_arrays_are_those_that_numpy_reads(tmp_path: Path, dtype: str, order: Any) -> None:
    path = tmp_path / "params.npz"
    arrays: dict[str, Any] = {
        "a": np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order),
        "b": np.array(3, dtype=dtype),
        "c": np.zeros((0, 3), dtype=dtype),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        entries = read_entries(path)
        for name, array in arrays.items():
            assert np.array_equal(entries[name].numpy(), array)
            assert entries[name].numpy().dtype == array.dtype


def test_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    data = bytes(range(256)) * 10_000
    path.write_bytes(data)
    assert sha256(path) == hashlib.sha256(data).hexdigest()


def test_a_missing_file(tmp_path: Path) -> None:
    for read in (read_entries, sha256):
        with pytest.raises(LoadError, match="gone"):
            read(tmp_path / "gone.safetensors")


def test_a_stream_hands_out_what_is_there() -> None:
    stream = Stream(io.BytesIO(b"ab\ncdefgh"), 9)
    assert stream.readline() == b"ab\n"
    assert stream.read(2) == b"cd"
    buffer = bytearray(2)
    stream.readinto(buffer)
    assert (bytes(buffer), stream.left) == (b"ef", 2)
    for count in (3, 2**62, -1):
        with pytest.raises(ValueError, match="2 are left"):
            stream.read(count)
    with pytest.raises(ValueError, match="3 bytes, 2 are left"):
        stream.readinto(bytearray(3))
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        Stream(io.BytesIO(bytes(20)), 20).readline(10)
    shorter = Stream(io.BytesIO(b"a"), 4)  # than it was when it was opened
    with pytest.raises(ValueError, match="ends 3 bytes early"):
        shorter.read(4)
    shorter = Stream(io.BytesIO(b"a"), 4)
    with pytest.raises(ValueError, match="ends 3 bytes early"):
        shorter.readinto(bytearray(4))


def test_how_much_may_be_unpacked() -> None:
    assert unpacked_limit(1) == 64 * MIB
    assert unpacked_limit(5 * MIB) == 80 * MIB


def test_what_is_plain() -> None:
    shared = [1] * 1000
    check_plain({"a": [shared] * 900, "b": (1, {2}, None, Record())})
    with pytest.raises(ValueError, match="more than 1,000,000"):
        check_plain([shared] * 1000)
    loop = Record()
    vars(loop)["self"] = {"a": loop}  # a module may know its parent
    check_plain(loop)
    vars(loop)["deep"] = {"a": 10**400}
    with pytest.raises(ValueError, match="300 digits"):
        check_plain({"cfg": loop})


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.exec", "builtins.getattr", "torch.load", "torch.hub.load",
     "torch.storage._load_from_bytes", "subprocess.Popen", "sae_guard.cli.main"],
)  # fmt: skip
def test_every_other_global_is_a_record(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = Unpickler(Stream(io.BytesIO(), 0)).find_class(module, attribute)
    assert issubclass(found, Record)
    assert isinstance(found("rm", shell=True), Record)
