"""The files of `torch.save`, and pickles with such files in them, read without `torch.load`.

`torch.load` would run what is pickled or, with ``weights_only``, refuse the configs of old
checkpoints and still allocate what the pickle names (``bytearray(10**12)``). The containers are
simple: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py writes them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from sae_guard.checkpoints.safe_pickle.inert import Unpickler, check_plain
from sae_guard.checkpoints.safe_pickle.sizes import Stream, gunzipped
from sae_guard.checkpoints.safe_pickle.torch_tensors import CONSTANTS, Budget, Storage

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def read_torch(file: BinaryIO, size: int) -> Any:
    """The object in a zip, old or bare pickle file of ``size`` bytes, or in one of these gzipped.

    Tensors share memory where they did, requires_grad is dropped, and foreign objects are records.

    Raises:
        ValueError: The container is refused by name, or promises more than it holds.
        Exception: Of nearly any kind, where the bytes are malformed.
    """
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        unpacked = gunzipped(file, size)
        file, size, magic = io.BytesIO(unpacked), len(unpacked), unpacked[:4]
    if magic == b"PK\x03\x04":
        loaded = _read_zip(file, size)
    elif magic[:1] == b"\x80":
        loaded = _read_pickles(Stream(file, size), Budget(size))
    else:
        file.seek(257)
        if file.read(5) == b"ustar":
            raise ValueError("a tar file, as torch wrote before 0.1.10")
        raise ValueError(f"begins with {magic!r}, not as a zip file, a pickle or a gzip file does")
    check_plain(loaded)
    return loaded


def _read_pickles(stream: Stream, budget: Budget) -> Any:
    """A bare pickle, or the pickles of `torch.save` before 1.6."""

    def nested(data: Any) -> Any:
        # What `torch.storage._load_from_bytes` would hand to torch.load.
        if type(data) is not bytes:
            raise ValueError(f"a storage in a {type(data).__name__}")
        inner = stream.inner(data)
        if Unpickler(inner).load() != _MAGIC:
            raise ValueError("a storage in bytes that torch did not write")
        return _read_old(inner, budget)

    functions = {**budget.functions, ("torch.storage", "_load_from_bytes"): nested}
    first = Unpickler(stream, functions, CONSTANTS).load()
    if type(first) is int and first == _MAGIC:
        return _read_old(stream, budget)
    if stream.left:
        raise ValueError(f"{stream.left:,} bytes follow the pickled object")
    return first


def _read_old(stream: Stream, budget: Budget) -> Any:
    """What follows the magic number: versions, the object, and then its storages."""
    storages: dict[str, Storage] = {}
    if Unpickler(stream).load() != _PROTOCOL:
        raise ValueError(f"of another protocol than {_PROTOCOL}")
    Unpickler(stream).load()  # of the machine that wrote it; the bytes are little-endian on all

    def persistent(pid: tuple[Any, ...]) -> Any:
        if pid[0] == "module":  # with the source of its class, which nobody needs
            return pid[1]
        kind, key, _, count, view = _storage_id(pid, 6)
        if key not in storages:
            storages[key] = budget.storage(kind, count)
        whole = storages[key]
        if (kind.dtype, count) != (whole.dtype, whole.count):
            raise ValueError(f"two different storages {key!r:.100}")
        return whole if view is None else whole.part(view[1], view[2])

    loaded = Unpickler(stream, budget.functions, CONSTANTS, persistent).load()
    keys = Unpickler(stream).load()
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise ValueError("the storages that follow are not those of the tensors")
    for key in keys:
        if int.from_bytes(stream.read(8), "little") != storages[key].count:
            raise ValueError(f"storage {key!r:.100} is of another size than its tensors say")
        stream.readinto(storages[key].raw)
    if stream.left:
        raise ValueError(f"{stream.left:,} bytes follow the last storage")
    return loaded


def _read_zip(file: BinaryIO, size: int) -> Any:
    members = _members(file, size)
    if any(PurePosixPath(name).name == "constants.pkl" for name in members):
        raise ValueError("a TorchScript archive is a program, not a state dict")
    tops = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tops) != 1:
        raise ValueError(f"a zip file with {len(tops)} data.pkl in a folder, expected 1")
    top = tops[0].removesuffix("data.pkl")
    order = members.get(f"{top}byteorder")
    if order and _record(file, size, order) != b"little":
        raise ValueError("its numbers are big-endian, expected little-endian")
    budget, storages = Budget(size), dict[str, Storage]()

    def persistent(pid: tuple[Any, ...]) -> Storage:
        kind, key, _, count = _storage_id(pid, 5)
        if key not in storages:
            storages[key] = budget.storage(kind, count)
            _record(file, size, members[f"{top}data/{key}"], storages[key].raw)
        if (kind.dtype, count) != (storages[key].dtype, storages[key].count):
            raise ValueError(f"two different storages {key!r:.100}")
        return storages[key]

    pickled = bytes(_record(file, size, members[f"{top}data.pkl"]))
    stream = Stream(io.BytesIO(pickled), len(pickled))
    return Unpickler(stream, budget.functions, CONSTANTS, persistent).load()


def _storage_id(pid: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    """What follows the word "storage": class, key, device, number of elements, view."""
    if len(pid) != length or pid[0] != "storage" or type(pid[2]) is not str:
        raise ValueError(f"a persistent id of {len(pid)} parts that is no storage")
    return pid[1:]


def _members(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """By name; all are stored as they are and fit the file."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise ValueError("a zip file with several members of one name")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(f"{info.filename!r:.100} is compressed; torch writes none such")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("the members of the zip file are longer than it is")
    return members


def _record(
    file: BinaryIO, size: int, info: zipfile.ZipInfo, into: bytearray | None = None
) -> bytearray:
    """The bytes of a member, checked against its checksum where torch was told to write one."""
    file.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"no member {info.filename!r:.100} where the zip file says it is")
    file.seek(name + extra, io.SEEK_CUR)
    data = bytearray(info.file_size) if into is None else into
    if len(data) != info.file_size:
        raise ValueError(
            f"{info.filename!r:.100} has {info.file_size:,} bytes, its tensors {len(data):,}"
        )
    Stream(file, size - file.tell()).readinto(data)
    if info.CRC not in (0, zlib.crc32(data)):
        raise ValueError(f"{info.filename!r:.100} does not match its checksum")
    return data
