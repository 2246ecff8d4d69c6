"""No file runs code: a pickle's calls, imports and settings become inert objects or an error."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_guard.checkpoints.load import load
from sae_guard.checkpoints.safe_pickle.inert import InertObject, Unpickler
from sae_guard.checkpoints.safe_pickle.sizes import Stream
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from tests.attacks.containers import OF_OBJECTS, WRITERS, Leaves, raw_pickle, tensors, write


def unpickled(pickled: bytes) -> Any:
    return Unpickler(Stream(io.BytesIO(pickled), len(pickled))).load()


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def call(module: str, name: str, *arguments: str) -> bytes:
    """The opcodes that call a function by its name."""
    return (
        f"c{module}\n{name}\n".encode() + b"(" + b"".join(text(value) for value in arguments)
    ) + b"tR"


@pytest.mark.parametrize("container", OF_OBJECTS)
@pytest.mark.parametrize("place", ["top", "entry", "key"])
def test_a_pickle_that_executes(tmp_path: Path, container: str, place: str) -> None:
    trace = tmp_path / "trace"
    evil = Leaves(trace)
    content: Any = {"top": evil, "entry": {**tensors(), "evil": evil}, "key": {evil: 1}}[place]
    path = write(container, tmp_path, content)
    with pytest.raises(LoadError):
        load(path)
    assert not trace.exists()


def test_the_payload_is_a_real_one(tmp_path: Path) -> None:
    path = write("pkl", tmp_path, Leaves(tmp_path / "trace"))
    pickle.loads(path.read_bytes())
    assert (tmp_path / "trace").exists()


CALLS = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("builtins", "exec"),
    ("builtins", "open"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("os", "path.os.system"),
    ("subprocess", "getoutput"),
    ("torch", "load"),
    ("torch.jit", "load"),
    ("torch.hub", "load"),
    ("torch.storage", "os.system"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("functools", "partial"),
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "OrderedDict.__class__"),
    ("collections", "namedtuple"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torch._utils", "_import_dotted_name"),
    ("sae_guard.cli", "main"),
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("container", OF_OBJECTS)
@pytest.mark.parametrize(("module", "name"), CALLS)
def test_every_call_is_a_record(
    tmp_path: Path, container: str, module: str, name: str, protocol: int
) -> None:
    trace = tmp_path / "trace"
    dotted_name = (
        f"c{module}\n{name}\n".encode() if protocol == 2 else text(module) + text(name) + b"\x93"
    )
    calls = dotted_name + b"(" + text(f"touch {trace}") + b"tR"
    pickled = b"\x80" + bytes([protocol]) + b"}" + text("evil") + calls + b"s."
    entries = read_entries(raw_pickle(container, tmp_path / WRITERS[container][0], pickled))
    assert isinstance(entries["evil"], InertObject)
    assert type(entries["evil"]).__name__ == name
    assert vars(entries["evil"]) == {}
    assert not trace.exists()


def test_torch_and_its_jit_are_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(container, tmp_path, tensors()) for container in OF_OBJECTS]
    for owner, name in ((torch, "load"), (torch.jit, "load"), (torch.storage, "_load_from_bytes")):
        monkeypatch.delattr(owner, name)
    for path in paths:
        assert read_entries(path).keys() == tensors().keys()


def test_no_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    path = raw_pickle("pkl", tmp_path / "sae.pkl", b"\x80\x02}" + text("evil")
                      + call("evil_module", "Evil", "x") + b"s.")  # fmt: skip
    code = (
        "import sys; from pathlib import Path"
        "; from sae_guard.checkpoints.tensor_files import read_entries"
        f"; read_entries(Path({str(path)!r})); assert 'evil_module' not in sys.modules"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, check=True)


class Stateful:
    """Its state is set by a method that leaves a trace."""

    trace: Path

    def __getstate__(self) -> dict[str, Any]:
        return {"__setstate__": Leaves, "__class__": int, "__dict__": {"a": 1}, "d_in": 6}

    def __setstate__(self, state: Any) -> None:
        raise SystemExit("its code ran")


def test_state_is_kept_and_no_method_of_it_runs(tmp_path: Path) -> None:
    inert = read_entries(write("zip", tmp_path, {"cfg": Stateful()}))["cfg"]
    assert isinstance(inert, InertObject)
    assert type(inert).__name__ == "Stateful"
    assert vars(inert)["d_in"] == 6
    again = b"\x80\x02" + b"}" + text("cfg") + b"cx\nY\n)R" + (
        b"}" + text("__setstate__") + b"cx\nZ\nsb" + b"}" + text("b") + b"K\x01sb"
    )  # fmt: skip
    inert = unpickled(again + b"s.")["cfg"]
    assert vars(inert)["b"] == 1


def test_the_state_of_an_object_with_slots() -> None:
    pair = b"N}" + text("a") + b"K\x01s\x86"
    inert = unpickled(b"\x80\x02cx\nSlotted\n)\x81" + pair + b"b.")
    assert vars(inert) == {"a": 1}


@pytest.mark.parametrize(
    ("name", "pickled"),
    [
        ("a dunder name", b"cx\n__init_subclass__\n)R."),
        ("a dunder module", b"c__main__\n__builtins__\n)R."),
        ("a metaclass", b"cbuiltins\ntype\n(" + text("A") + b")}tR."),
        ("named like an allowed one", b"cevil\nOrderedDict\n)R."),
        ("new, with arguments", b"cx\nY\n(" + text("a") + b"t\x81."),
        ("new, with names", b"\x80\x04" + text("x") + text("Y") + b"\x93)}\x92."),
    ],
)
def test_odd_classes_are_records(name: str, pickled: bytes) -> None:
    inert = unpickled(pickled)
    assert isinstance(inert, InertObject)
    assert vars(inert) == {}
    assert vars(InertObject).keys() == {
        "__module__", "__doc__", "__new__", "__init__", "__setstate__", "__repr__", "__dict__",
        "__weakref__", *({"__firstlineno__", "__static_attributes__"} & vars(InertObject).keys()),
    }  # fmt: skip


REFUSED = {
    "an extension": b"\x80\x02\x82\x01.",
    "a long extension": b"\x80\x02\x84\x01\x00\x00\x00.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\no.",
    "a persistent id in text": b"Pa\n.",
    "a persistent id that is a number": b"K\x01Q.",
    "a persistent id without a container": b"K\x01\x85Q.",
    "state of a mapping": b"}}" + text("a") + b"K\x01sb.",
    "state of a class": b"cx\nY\n}b.",
    "state of a list": b"]}b.",
    "attributes that are no text": b"cx\nY\n)R}K\x01K\x01sb.",
    "a call of an inert object": b"cx\nY\n)R)R.",
    "a call of a text": text("os.system") + b")R.",
    "arguments that are no tuple": b"ccollections\nOrderedDict\n]R.",
    "a new function": b"ccollections\nOrderedDict\n)\x81.",
    "items of a class": b"cx\nY\n" + text("a") + b"K\x01s.",
    "items of a number": b"K\x01" + text("a") + b"K\x01s.",
    "items of a text": text("a") + b"K\x01a.",
    "a list as a key": b"}]K\x01s.",
    "a tuple as a key": b"})K\x01s.",
    "an inert object as a key": b"}cx\nY\n)RK\x01s.",
    "an odd number of items": b"}(K\x01u.",
    "bytes in another encoding": call("_codecs", "encode", "a", "rot13") + b".",
    "a null in a name": b"cx\n\0\n.",
    "a global that is no text": b"\x80\x04K\x01K\x01\x93.",
    "an empty stack": b"0.",
    "a mark that was not set": b"t.",
    "no such memo": b"h\x05.",
    "text in the old way": b"S'a'\n.",
    "an unknown opcode": b"\xff.",
    "out-of-band buffers": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError, IndexError, TypeError)):
        unpickled(REFUSED[name])
    for container in OF_OBJECTS:
        path = tmp_path / WRITERS[container][0]
        with pytest.raises(LoadError, match="unreadable"):
            load(raw_pickle(container, path, b"\x80\x02" + REFUSED[name]))


def test_a_registered_extension_is_not_looked_up() -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(pickle.UnpicklingError, match="no step of a pickle"):
            unpickled(b"\x80\x02\x82\xf0.")
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


def test_foreign_mappings_and_lists_keep_their_items() -> None:
    foreign = b"\x80\x02cx\nConfig\n)R"
    assert vars(unpickled(foreign + text("a") + b"K\x01s."))["__items__"] == {"a": 1}
    assert vars(unpickled(foreign + b"K\x01a."))["__items__"] == [1]
    assert vars(unpickled(b"\x80\x04cx\nConfig\n)R(K\x01\x90."))["__items__"] == {1}
    with pytest.raises(pickle.UnpicklingError, match="puts items into a dict"):
        unpickled(foreign + text("a") + b"K\x01sK\x01a.")


@pytest.mark.parametrize(
    "pid",
    [
        ("storage",),
        ("storage", "FloatStorage", "0", "cpu", 1),
        ("storage", torch.FloatStorage, 0, "cpu", 1),
        ("storage", torch.FloatStorage, "../0", "cpu", 1),
        ("storage", torch.FloatStorage, "0", "cpu", -1),
        ("storage", torch.FloatStorage, "0", "cpu", True),
        ("storage", torch.FloatStorage, "0", "cpu", 1.0),
        ("storage", Leaves, "0", "cpu", 1),
        ("module", Leaves, "", "", 1),
        (b"storage", torch.FloatStorage, "0", "cpu", 1),
        (["storage"], torch.FloatStorage, "0", "cpu", 1),
    ],
)
@pytest.mark.parametrize("container", ["zip", "old"])
def test_persistent_ids_that_name_no_storage(tmp_path: Path, container: str, pid: Any) -> None:
    persistent_id = (*pid, None) if container == "old" else pid
    path = raw_pickle(
        container,
        tmp_path / "sae.pt",
        pickle.dumps(persistent_id, protocol=2)[:-1] + b"Q.",
        zero=b"",
    )
    with pytest.raises(LoadError):
        load(path)
