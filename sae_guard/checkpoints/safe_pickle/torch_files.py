"""Reader of files of `torch.save`, and of pickles that contain such files, without `torch.load`.

`torch.load` runs pickled code. With ``weights_only`` it refuses the configs of old checkpoints, and
still allocates what the pickle asks for (``bytearray(10**12)``). The containers are simple;
https://github.com/pytorch/pytorch/blob/main/torch/serialization.py writes them.
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
# Of a zip member: signature, 22 bytes that its directory has too, lengths of name and extra field.
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def read_torch(file: BinaryIO, size: int) -> Any:
    """Read the object in a zip file, an old file of torch or a bare pickle, or one of them gzipped.

    Tensors share memory as when they were saved, requires_grad is dropped, and foreign objects are
    inert objects.

    Args:
        file: The file, at its start.
        size: Its size in bytes.

    Raises:
        ValueError: The container is not supported, or declares more data than it has.
        Exception: The bytes are malformed; the kind varies.
    """
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        unpacked = gunzipped(file, size)
        file, size, magic = io.BytesIO(unpacked), len(unpacked), unpacked[:4]
    if magic == b"PK\x03\x04":
        loaded = _read_zip(file, size)
    elif magic[:1] == b"\x80":  # the opcode PROTO, with which pickles of protocol 2 and later begin
        loaded = _read_pickles(Stream(file, size), Budget(size))
    else:
        file.seek(257)  # where the header of a tar file has its signature
        if file.read(5) == b"ustar":
            raise ValueError(
                "a tar file, as torch wrote before 0.1.10; load and save it with a later torch"
            )
        raise ValueError(
            f"begins with {magic!r}, expected the first bytes of a zip file, a pickle or a gzip "
            "file"
        )
    check_plain(loaded)
    return loaded


def _read_pickles(stream: Stream, budget: Budget) -> Any:
    """Read a bare pickle, or the pickles of `torch.save` before 1.6."""

    def nested(data: Any) -> Any:
        # Replaces `torch.storage._load_from_bytes`, which calls torch.load.
        if type(data) is not bytes:
            raise ValueError(f"a storage in a {type(data).__name__}, expected bytes")
        inner = stream.inner(data)
        if Unpickler(inner).load() != _MAGIC:
            raise ValueError("a storage in bytes that torch.save did not write")
        return _read_old(inner, budget)

    functions = {**budget.functions, ("torch.storage", "_load_from_bytes"): nested}
    first = Unpickler(stream, functions, CONSTANTS).load()
    if type(first) is int and first == _MAGIC:
        return _read_old(stream, budget)
    if stream.left:
        raise ValueError(f"{stream.left:,} bytes follow the pickled object")
    return first


def _read_old(stream: Stream, budget: Budget) -> Any:
    """Read the part after the magic number: versions, the object, and then its storages."""
    storages: dict[str, Storage] = {}
    if Unpickler(stream).load() != _PROTOCOL:
        raise ValueError(f"another protocol of torch.save than {_PROTOCOL}")
    Unpickler(stream).load()  # facts of the writing machine; the bytes are always little-endian

    def persistent(pid: tuple[Any, ...]) -> Any:
        if pid[0] == "module":  # also has the source of its class, which is not needed
            return pid[1]
        kind, key, _, count, view = _storage_id(pid, 6)
        if key not in storages:
            storages[key] = budget.storage(kind, count)
        storage = storages[key]
        if (kind.dtype, count) != (storage.dtype, storage.count):
            raise ValueError(f"two different storages have the key {key!r:.100}")
        return storage if view is None else storage.part(view[1], view[2])

    loaded = Unpickler(stream, budget.functions, CONSTANTS, persistent).load()
    keys = Unpickler(stream).load()
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise ValueError("the stored keys of storages differ from those of the tensors")
    for key in keys:
        # Its number of elements, before its bytes.
        if int.from_bytes(stream.read(8), "little") != storages[key].count:
            raise ValueError(f"the size of storage {key!r:.100} differs from that in its tensors")
        stream.readinto(storages[key].raw)
    if stream.left:
        raise ValueError(f"{stream.left:,} bytes follow the last storage")
    return loaded


def _read_zip(file: BinaryIO, size: int) -> Any:
    members = _members(file, size)
    if any(PurePosixPath(name).name == "constants.pkl" for name in members):
        raise ValueError(
            "a TorchScript archive is a program, expected a state dict; save module.state_dict()"
        )
    tops = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tops) != 1:
        raise ValueError(f"a zip file with {len(tops)} FOLDER/data.pkl, expected 1")
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
            raise ValueError(f"two different storages have the key {key!r:.100}")
        return storages[key]

    pickled = bytes(_record(file, size, members[f"{top}data.pkl"]))
    stream = Stream(io.BytesIO(pickled), len(pickled))
    return Unpickler(stream, budget.functions, CONSTANTS, persistent).load()


def _storage_id(pid: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    """Return the parts after the word "storage": class, key, device, number of elements, view."""
    if len(pid) != length or pid[0] != "storage" or type(pid[2]) is not str:
        raise ValueError(
            f"a persistent id of {len(pid)} parts, expected {length} that begin with 'storage'"
        )
    return pid[1:]


def _members(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, all of them uncompressed and no larger than the file."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise ValueError("a zip file with several members of the same name")
    for info in infos:
        # Bit 0 of the flags: encrypted.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(
                f"{info.filename!r:.100} is compressed or encrypted, expected a stored member, as "
                "torch writes"
            )
    # Members that overlap could each claim the same bytes.
    if sum(info.file_size for info in infos) > size:
        raise ValueError(f"the members of the zip file are longer than the file of {size:,} bytes")
    return members


def _record(
    file: BinaryIO, size: int, info: zipfile.ZipInfo, into: bytearray | None = None
) -> bytearray:
    """Read the bytes of a member, and check its checksum; 0 means that torch wrote none."""
    file.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"no member {info.filename!r:.100} at its offset in the zip file")
    file.seek(name + extra, io.SEEK_CUR)
    data = bytearray(info.file_size) if into is None else into
    if len(data) != info.file_size:
        raise ValueError(
            f"{info.filename!r:.100} has {info.file_size:,} bytes, its tensors need {len(data):,}"
        )
    Stream(file, size - file.tell()).readinto(data)
    if info.CRC not in (0, zlib.crc32(data)):
        raise ValueError(f"{info.filename!r:.100} does not match its checksum")
    return data
