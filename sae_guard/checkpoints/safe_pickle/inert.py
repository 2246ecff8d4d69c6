"""Unpickler that runs no code of the file: objects of foreign classes become inert objects.

Old checkpoints store the config of their training as an object of a class that is usually not
installed, and must not be imported if it is. `Unpickler` derives from Python's pure-Python
unpickler: the one in C allocates a memo for the largest index in the file.

`check_plain` checks that data from a file is safe to print, to compare and to iterate over.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sae_guard.checkpoints.safe_pickle.sizes import Stream

_MAX_CLASSES = 1_000
_Global = tuple[str, str]


class InertObject:
    """Replacement of an object of a foreign class: its state without its code.

    ``vars(inert)`` is the state; ``__items__`` in it are the items of a foreign mapping or list.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> InertObject:
        """Create an inert object without state, and ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: Any) -> None:
        # The state of an object with slots is a pair of mappings.
        for part in state if type(state) is tuple and len(state) == 2 else (state,):
            if isinstance(part, dict):
                if not all(type(name) is str for name in part):
                    raise pickle.UnpicklingError("the name of an attribute is not text")
                vars(self).update(part)

    def __repr__(self) -> str:
        return f"<inert object of {type(self).__module__[:100]}.{type(self).__name__[:100]}>"


def _ordered_dict(pairs: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    mapping: OrderedDict[Any, Any] = OrderedDict()
    for name, value in pairs:
        mapping[_hashable(name)] = value
    return mapping


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return {_hashable(item) for item in items}


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r:.100}, allowed: 'latin1'")
    return text.encode("latin1")


_FUNCTIONS: Mapping[_Global, Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    # Protocol 2 has the names of Python 2, where `builtins` was `__builtin__`.
    ("__builtin__", "set"): _set,
    ("builtins", "set"): _set,
    ("__builtin__", "frozenset"): _frozenset,
    ("builtins", "frozenset"): _frozenset,
    ("_codecs", "encode"): _encode,  # protocol 2 writes bytes so,
    ("__builtin__", "bytes"): _no_bytes,  # and empty bytes so
}


def _hashable(key: Any) -> Any:
    """Return the key; refuse types that are slow to hash or made to collide."""
    if type(key) in (str, bytes, float, bool, type(None)):
        return key
    if type(key) is int and abs(key) < 2**32:
        return key
    raise pickle.UnpicklingError(
        f"a {type(key).__name__} is the key of a mapping, allowed: text, bytes, None, and numbers "
        "below 2**32"
    )


_INHERITED_OPCODES = (
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "GLOBAL", "STACK_GLOBAL",
    "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE",
)  # fmt: skip


class _Opcodes(dict[int, Callable[[Any], None]]):
    """Method per opcode of a pickle; other opcodes are refused.

    Missing are opcodes of the text protocols 0 and 1, registered extensions, integers of more than
    255 bytes, and buffers outside of the pickle.
    """

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"{bytes([code])!r} is no step of a pickle that is read here")


class Unpickler(pickle._Unpickler):
    """Unpickler for protocols 2 to 5 that resolves only the globals passed to it.

    Malformed bytes raise nearly any exception. Unlike ``pickle.Unpickler``, it never imports a
    module that a file names.

    Args:
        stream: The pickled bytes.
        functions: Functions that a pickle may call, by module and name.
        constants: Objects that a pickle may name but not call.
        persistent: Function that returns the storage for a persistent id.
    """

    # Attributes of the base class, which has no annotations.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(
        self,
        stream: Stream,
        functions: Mapping[_Global, Callable[..., Any]] | None = None,
        constants: Mapping[_Global, Any] | None = None,
        persistent: Callable[[tuple[Any, ...]], Any] | None = None,
    ) -> None:
        super().__init__(stream)
        self._functions = {**_FUNCTIONS, **(functions or {})}
        self._constants = constants or {}
        self._persistent = persistent
        self._classes: dict[_Global, type[InertObject]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the function, constant or inert class for a name; nothing is imported."""
        key = (module, name)
        if key in self._functions:
            return self._functions[key]
        if key in self._constants:
            return self._constants[key]
        if key not in self._classes:
            if len(self._classes) == _MAX_CLASSES:
                raise pickle.UnpicklingError(
                    f"names more classes than allowed: up to {_MAX_CLASSES:,}"
                )
            self._classes[key] = type(name, (InertObject,), {"__module__": module})
        return self._classes[key]

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage for a persistent id, where the container has storages."""
        if self._persistent is None or type(pid) is not tuple:
            raise pickle.UnpicklingError(
                f"an unexpected persistent id, a {type(pid).__name__}; allowed: tuples in files "
                "of torch.save"
            )
        return self._persistent(pid)

    # The methods below replace all opcodes of the base class that call, query or change an object
    # chosen by the file.

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("the arguments of a call are not a tuple")
        if _is_record_class(function):
            self.stack[-1] = function()
        elif any(function is allowed for allowed in self._functions.values()):
            self.stack[-1] = function(*arguments)
        else:
            raise pickle.UnpicklingError(f"calls a {type(function).__name__}")

    def _new_object(self) -> None:
        self.stack.pop()
        self._new_record(self.stack.pop())

    def _new_object_with_names(self) -> None:
        del self.stack[-2:]
        self._new_record(self.stack.pop())

    def _new_record(self, record_class: Any) -> None:
        if not _is_record_class(record_class):
            raise pickle.UnpicklingError(f"makes a new {record_class!r:.100}")
        self.append(record_class())

    def _build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, InertObject):
            InertObject.__setstate__(built, state)
        elif type(built) is not OrderedDict:  # the state of a state dict is its module versions
            raise pickle.UnpicklingError(f"sets the state of a {type(built).__name__}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _container(self.stack[-1], dict)[_hashable(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        mapping = _container(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[_hashable(key)] = value

    def _append(self) -> None:
        value = self.stack.pop()
        _container(self.stack[-1], list).append(value)

    def _append_all(self) -> None:
        items = self.pop_mark()
        _container(self.stack[-1], list).extend(items)

    def _add_all(self) -> None:
        items = self.pop_mark()
        _container(self.stack[-1], set).update(map(_hashable, items))

    def _frozen_set(self) -> None:
        items = self.pop_mark()  # first: it replaces self.append
        self.append(frozenset(map(_hashable, items)))

    def _frame(self) -> None:
        self.read(8)  # a hint how much to read ahead, which is ignored

    dispatch = _Opcodes(
        {
            **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
               for name in _INHERITED_OPCODES},
            pickle.REDUCE[0]: _reduce,
            pickle.NEWOBJ[0]: _new_object,
            pickle.NEWOBJ_EX[0]: _new_object_with_names,
            pickle.BUILD[0]: _build,
            pickle.SETITEM[0]: _set_item,
            pickle.SETITEMS[0]: _set_items,
            pickle.APPEND[0]: _append,
            pickle.APPENDS[0]: _append_all,
            pickle.ADDITEMS[0]: _add_all,
            pickle.FROZENSET[0]: _frozen_set,
            pickle.FRAME[0]: _frame,
            # Protocol 5, the default since Python 3.14, writes arrays with BYTEARRAY8. The base
            # class allocates the buffer first; read as bytes, it takes no more than the file has.
            pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
        }
    )  # fmt: skip


def _is_record_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, InertObject)


def _container(target: Any, kind: Callable[[], Any]) -> Any:
    """Return the dict, list or set to fill: the target itself, or the items of an inert object."""
    if isinstance(target, InertObject):
        target = vars(target).setdefault("__items__", kind())
    if type(target) is not kind and not (kind is dict and type(target) is OrderedDict):
        raise pickle.UnpicklingError(f"puts items into a {type(target).__name__}")
    return target


_MAX_DEPTH = 100
_MAX_VALUES = 1_000_000
_MAX_INTEGER = 2**1000  # fits a float, and is short enough for Python to print


def check_plain(value: Any) -> None:
    """Raise `ValueError` where containers are nested too deeply or share too much.

    A list that contains another one twice, which contains a third one twice, and so on, is short
    in a file but would take forever to print.
    """
    inert_objects, checked = [value] if isinstance(value, InertObject) else [], set[int]()
    _expanded_size(value, {}, inert_objects, 0)
    while inert_objects:
        inert = inert_objects.pop()
        if id(inert) not in checked:
            checked.add(id(inert))
            _expanded_size(vars(inert), {}, inert_objects, 0)


def _expanded_size(
    value: Any, sizes: dict[int, int], inert_objects: list[InertObject], depth: int
) -> int:
    """Count the values, with shared containers once per reference; collect the inert objects."""
    if isinstance(value, InertObject):
        inert_objects.append(value)
        return 1
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ValueError("holds an integer of over 300 digits, allowed: below 2**1000")
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return 1
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep, or contains itself")
    size = sizes.get(id(value))
    if size is None:
        size = 1 + sum(
            _expanded_size(child, sizes, inert_objects, depth + 1) for child in _children(value)
        )
        sizes[id(value)] = size
    if size > _MAX_VALUES:
        raise ValueError(f"holds more than {_MAX_VALUES:,} entries (a tensor counts as one)")
    return size


def _children(value: Any) -> Iterator[Any]:
    yield from value
    if isinstance(value, Mapping):
        yield from value.values()
