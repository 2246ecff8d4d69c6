"""Files that promise more than they hold.

``python -m tests.attacks.size_attacks FOLDER`` loads each file of a folder, and prints the result
and the memory that it took.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from tests.attacks.containers import raw_pickle, tensor_pickle

TERA = 10**12
_BOMB = 200 * 2**20


def npy_promise(shape: tuple[int, ...], descr: str = "<f4", data: bytes = bytes(16)) -> bytes:
    """An array file whose header says a shape and whose body is ``data``."""
    out = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(out, header)
    return out.getvalue() + data


def npz(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """An ``.npz`` of members as they are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with a header as it is."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _two_of_one_name(folder: Path) -> Path:
    path = npz(folder / "sae.npz", ("a.npy", npy_promise((4,))), ("b.npy", npy_promise((4,))))
    path.write_bytes(path.read_bytes().replace(b"b.npy", b"a.npy"))
    return path


def _nested_header(folder: Path) -> Path:
    text = b"-" * 9000 + b"1\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return npz(folder / "sae.npz", ("a.npy", data))


def _lying_bomb(folder: Path) -> Path:
    """The directory says that the member is small; its bytes unpack to 200 MiB."""
    content = npy_promise((4,)) + bytes(_BOMB)
    path = npz(folder / "sae.npz", ("a.npy", content), compression=zipfile.ZIP_DEFLATED)
    small = struct.pack("<L", len(content)), struct.pack("<L", len(npy_promise((4,))))
    path.write_bytes(path.read_bytes().replace(*small))
    return path


def _overlapping(folder: Path) -> Path:
    """1,000 members that are all the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("sae/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("sae/data/0", bytes(2**16))
        for number in range(1, 1000):
            again = zipfile.ZipInfo(f"sae/data/{number}")
            first = archive.getinfo("sae/data/0")
            for name in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(again, name, getattr(first, name))
            archive.filelist.append(again)
    (folder / "sae.pt").write_bytes(out.getvalue())
    return folder / "sae.pt"


def _compressed(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "sae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sae/data.pkl", tensor_pickle(_BOMB // 4, (_BOMB // 4,), (1,)))
        archive.writestr("sae/data/a", bytes(_BOMB))
    return folder / "sae.pt"


def _aliases(folder: Path) -> Path:
    """100 tensors that are the same million elements."""
    storage = torch.zeros(10**6)
    torch.save({str(number): storage.view(1000, 1000) for number in range(100)}, folder / "sae.pt")
    return folder / "sae.pt"


def _again_and_again(folder: Path) -> Path:
    """The bytes of one storage, and 500 calls to read them."""
    inner = io.BytesIO()
    storage = torch.zeros(2**18).untyped_storage()
    torch.save(storage, inner, _use_new_zipfile_serialization=False)
    out = io.BytesIO()
    pickler = pickle._Pickler(out, protocol=4)
    data = inner.getvalue()

    class Read:
        def __reduce__(self) -> tuple[Any, ...]:
            return (torch.storage._load_from_bytes, (data,))

    pickler.dump({str(number): Read() for number in range(500)})
    (folder / "sae.pkl").write_bytes(out.getvalue())
    return folder / "sae.pkl"


def _doubled(levels: int) -> bytes:
    """A list that holds another one twice, which holds a third one twice, and so on."""
    step = b"".join(
        b"](" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1]) + b"0"
        for level in range(levels)
    )
    return b"\x80\x02}]q\x00" + b"0" + step + text("a") + b"h" + bytes([levels]) + b"s."


def text(value: str) -> bytes:
    """The opcode of a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _pickled(*names: bytes) -> bytes:
    return b"\x80\x02}" + text("a") + b"".join(names) + b"s."


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


PICKLES: dict[str, tuple[str, bytes]] = {
    "a memo of 2^31": ("nothing", b"\x80\x02}r\xff\xff\xff\x7f."),
    "bytes of a terabyte": ("promises", b"\x80\x04\x8e" + struct.pack("<Q", TERA) + b"."),
    "a text of a terabyte": ("promises", b"\x80\x04\x8d" + struct.pack("<Q", TERA) + b"."),
    "a text of 4 gigabytes": ("promises", b"\x80\x02X\xff\xff\xff\xff."),
    "bytes beyond all": ("promises|exceeds", b"\x80\x04\x8e" + b"\xff" * 8 + b"."),
    "a buffer of a terabyte": ("promises", b"\x80\x05\x96" + struct.pack("<Q", TERA) + b"."),
    "a frame of a terabyte": ("promises", b"\x80\x04\x95" + struct.pack("<Q", TERA)),
    "an integer of 2 gigabytes": ("no step", b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "bytearray(10**12)": (
        "bytearray", _pickled(b"cbuiltins\nbytearray\n", _number(TERA), b"\x85R")),
    "bytes(10**12)": ("bytes", _pickled(b"cbuiltins\nbytes\n", _number(TERA), b"\x85R")),
    "range(10**12)": ("holds .a. .list", _pickled(b"cbuiltins\nlist\n", b"cbuiltins\nrange\n",
                                      _number(TERA), b"\x85R\x85R")),
    "FloatTensor(10**12)": ("FloatTensor", _pickled(b"ctorch\nFloatTensor\n", _number(TERA),
                                                  b"\x85R")),
    "FloatStorage(10**12)": ("calls a StorageType", _pickled(b"ctorch\nFloatStorage\n",
                                                           _number(TERA), b"\x85R")),
    "a shape of 10**12": ("a shape of", _pickled(b"ctorch\nSize\n", _number(TERA), b"\x85R")),
    "an ordered dict of 10**12": ("not iterable|iterable", _pickled(
        b"ccollections\nOrderedDict\n", _number(TERA), b"\x85R")),
    "a list doubled 90 times": ("more than 1,000,000|100 levels", _doubled(90)),
    "a list in itself": ("contains itself", b"\x80\x02}" + text("a") + b"]q\x00h\x00as."),
    "nested 200,000 deep": ("levels", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
    "a million sets": ("in more than", b"\x80\x04(" + b"\x8f" * 1_000_000 + b"l."),
    "a thousand classes": ("classes", b"\x80\x02(" + b"".join(
        f"cx\n{number}\n".encode() for number in range(2000)) + b"t."),
    "keys that collide": ("key of a mapping", b"\x80\x02}(" + b"".join(
        _number((2**61 - 1) * (number % 4 + 1)) + b"N" for number in range(50_000)) + b"u."),
    "an integer of 2000 bits": ("300 digits", b"\x80\x02}" + text("a") + b"\x8a\xff"
                                + b"\x7f" * 255 + b"s."),
}  # fmt: skip
"""Name → what the message says, and the pickle."""

FILES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "npz: 10^12 numbers": ("hold 4,000,000,000,000 bytes", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((TERA,))))),
    "npz: 10^12 rows of nothing": ("hold 0 bytes", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((TERA, 0))))),
    "npz: a product beyond 64 bits": ("should hold", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((2**62, 4))))),
    "npz: fewer than negative": ("has shape", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((-1, -4))))),
    "npz: texts of a terabyte": ("expected numbers", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((4,), "<U99999999")))),
    "npz: objects": ("expected numbers", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((4,), "|O")))),
    "npz: a bomb": ("become", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((_BOMB // 4,), data=bytes(_BOMB))),
        compression=zipfile.ZIP_DEFLATED)),
    "npz: a bomb that lies": ("BadZipFile|should hold", _lying_bomb),
    "npz: another compression": ("compression method 14", lambda folder: npz(
        folder / "sae.npz", ("a.npy", npy_promise((4,))), compression=zipfile.ZIP_LZMA)),
    "npz: nested names": ("no array", lambda folder: npz(
        folder / "sae.npz", ("../a.npy", npy_promise((4,))))),
    "npz: one name twice": ("several members are named", _two_of_one_name),
    "npz: no array": ("no array", lambda folder: npz(folder / "sae.npz", ("a.txt", b"1"))),
    "npz: a header that is nested": ("nested too deeply|SyntaxError|Cannot parse", _nested_header),
    "zip: a storage of 10^12": ("bytes of storages more", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(TERA, (TERA,), (1,)), a=bytes(16))),
    "zip: a storage longer than its record": ("its tensors", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(5, (5,), (1,)), a=bytes(16))),
    "zip: a storage shorter than its record": ("its tensors", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(3, (3,), (1,)), a=bytes(16))),
    "zip: one element 10^12 times": ("in a storage of 1", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(1, (TERA,), (0,)), a=bytes(4))),
    "zip: beyond its storage": ("in a storage of 4", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(4, (2, 2), (3, 1)), a=bytes(16))),
    "zip: 10^12 rows of nothing": ("", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(4, (TERA, 0), (0, 1)), a=bytes(16))),
    "zip: negative strides": ("strides", lambda folder: raw_pickle(
        "zip", folder / "sae.pt", tensor_pickle(4, (2,), (-1,)), a=bytes(16))),
    "zip: members in one place": ("longer than the file", _overlapping),
    "zip: compressed": ("is compressed", _compressed),
    "zip: the same tensor 100 times": ("4 times the file", _aliases),
    "old: a storage of 10^12": ("bytes of storages more", lambda folder: raw_pickle(
        "old", folder / "sae.pt", tensor_pickle(TERA, (TERA,), (1,), None), a=bytes(24))),
    "pkl: the same bytes 500 times": ("bytes of storages more", _again_and_again),
    "gz: a bomb": ("become more than", lambda folder: raw_pickle(
        "pkl.gz", folder / "sae.pkl.gz", b"\x80\x04\x8e" + struct.pack("<Q", _BOMB)
        + bytes(_BOMB) + b".")),
    "gz: two files": ("follow the compressed", lambda folder: _write(
        folder / "sae.pkl.gz", gzip.compress(b"\x80\x02}.") * 2)),
    "gz: cut off": ("end early", lambda folder: _write(
        folder / "sae.pkl.gz", gzip.compress(bytes(10**6))[:-20])),
    "safetensors: 10^12 numbers": ("unreadable", lambda folder: safetensors(
        folder / "sae.safetensors",
        {"a": {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 4 * TERA]}}, bytes(16))),
    "safetensors: 10^12 numbers in 16 bytes": ("unreadable", lambda folder: safetensors(
        folder / "sae.safetensors",
        {"a": {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 16]}}, bytes(16))),
    "safetensors: beyond 64 bits": ("unreadable", lambda folder: safetensors(
        folder / "sae.safetensors",
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}, bytes(16))),
    "safetensors: overlapping": ("unreadable", lambda folder: safetensors(
        folder / "sae.safetensors",
        {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"},
        bytes(16))),
    "safetensors: an unknown dtype": ("unreadable", lambda folder: safetensors(
        folder / "sae.safetensors",
        {"a": {"dtype": "F31", "shape": [4], "data_offsets": [0, 16]}}, bytes(16))),
    "safetensors: a header longer than the file": ("a header of", lambda folder: safetensors(
        folder / "sae.safetensors", {}, length=TERA)),
    "safetensors: a header beyond 63 bits": ("a header of", lambda folder: safetensors(
        folder / "sae.safetensors", {}, length=2**64 - 1)),
    "safetensors: a nested header": ("unreadable", lambda folder: safetensors(
        folder / "sae.safetensors", b"[" * 100_000)),
}  # fmt: skip
"""Name → what the message says, and what writes the file."""


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def write_all(folder: Path) -> dict[str, Path]:
    """Every attack, in a folder of its own."""
    paths = {}
    for number, (name, (_, writer)) in enumerate(FILES.items()):
        own = folder / str(number)
        own.mkdir()
        paths[name] = writer(own)
    for number, (name, (_, pickled)) in enumerate(PICKLES.items()):
        for container in ("zip", "old", "pkl", "pkl.gz"):
            own = folder / f"{container}{number}"
            own.mkdir()
            suffix = container if "." in container or container == "pkl" else "pt"
            paths[f"{container}: {name}"] = raw_pickle(container, own / f"sae.{suffix}", pickled)
    return paths


def main(folder: Path) -> None:
    """Load each path of ``paths.json`` with little memory to be had."""
    from sae_guard.checkpoints.load import load
    from sae_guard.errors import SaeGuardError

    paths = json.loads((folder / "paths.json").read_text())
    np.zeros(1), torch.zeros(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, used + 2 * 2**30))
    results = {}
    for name, path in paths.items():
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            load(path)
            error: Any = None
        except SaeGuardError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001  # what the test is there to find
            error = raised
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        results[name] = {
            "error": type(error).__name__,
            "message": str(error),
            "mib": grown / 1024,
            "seconds": time.perf_counter() - start,
        }
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
