"""Pickled objects without their code: what is no tensor or plain value becomes an empty record.

Old checkpoints hold the config of their training as an object of a class that is not installed
here, and must not be imported if it were. The unpickler is a subclass of Python's own that is
written in Python: the one in C allocates a memo for the largest index that a file names.

`check_plain` holds data from outside to what is safe to print, to compare and to go through.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sae_guard.checkpoints.safe_pickle.sizes import Stream

_MOST_CLASSES = 1_000
_Global = tuple[str, str]


class Record:
    """Stands for an object of foreign code, none of which was run; its state is kept.

    ``vars`` of it holds the state, and under ``__items__`` what a foreign mapping or list held.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        """An empty record, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: Any) -> None:
        # An object with slots has a pair of mappings.
        for part in state if type(state) is tuple and len(state) == 2 else (state,):
            if isinstance(part, dict):
                if not all(type(name) is str for name in part):
                    raise pickle.UnpicklingError("the name of an attribute is no text")
                vars(self).update(part)

    def __repr__(self) -> str:
        return f"<record of {type(self).__module__[:100]}.{type(self).__name__[:100]}>"


def _ordered_dict(pairs: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    held: OrderedDict[Any, Any] = OrderedDict()
    for name, value in pairs:
        held[_hashable(name)] = value
    return held


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return {_hashable(item) for item in items}


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an encoding other than latin1")
    return text.encode("latin1")


_FUNCTIONS: Mapping[_Global, Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("__builtin__", "set"): _set,
    ("builtins", "set"): _set,
    ("__builtin__", "frozenset"): _frozenset,
    ("builtins", "frozenset"): _frozenset,
    ("_codecs", "encode"): _encode,  # how protocol 2 writes bytes, and none of them:
    ("__builtin__", "bytes"): _no_bytes,
}


def _hashable(key: Any) -> Any:
    """The key of a mapping, of a kind that takes no time to hash and seldom collides."""
    if type(key) in (str, bytes, float, bool, type(None)):
        return key
    if type(key) is int and abs(key) < 2**32:
        return key
    raise pickle.UnpicklingError(f"a {type(key).__name__} is the key of a mapping")


_AS_IN_PYTHON = (
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "GLOBAL", "STACK_GLOBAL",
    "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE",
)  # fmt: skip


class _Steps(dict[int, Callable[[Any], None]]):
    """What to do at each byte of a pickle; all others are refused.

    Left out are what only the text protocols 0 and 1 write, registered extensions, integers of
    more than 255 bytes, and buffers outside of the pickle.
    """

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"{bytes([code])!r} is no step of a pickle that is read here")


class Unpickler(pickle._Unpickler):
    """Reads what the pickle protocols 2 to 5 write, and finds nothing but what it is given.

    Malformed bytes raise nearly anything. Python's own classes of the same name in ``pickle``
    would import what a file names.
    """

    # Python's, without annotations of their own.
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
        self._classes: dict[_Global, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What is given under that name, or a record class of that name; nothing is imported."""
        key = (module, name)
        if key in self._functions:
            return self._functions[key]
        if key in self._constants:
            return self._constants[key]
        if key not in self._classes:
            if len(self._classes) == _MOST_CLASSES:
                raise pickle.UnpicklingError(f"names more than {_MOST_CLASSES:,} classes")
            self._classes[key] = type(name, (Record,), {"__module__": module})
        return self._classes[key]

    def persistent_load(self, pid: Any) -> Any:
        """A storage, where the container has them."""
        if self._persistent is None or type(pid) is not tuple:
            raise pickle.UnpicklingError(f"a persistent id is a {type(pid).__name__}")
        return self._persistent(pid)

    # What follows replaces every step of Python's that calls, asks or changes an object of the
    # file's choice.

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("the arguments of a call are no tuple")
        if _is_record_class(function):
            self.stack[-1] = function()
        elif any(function is given for given in self._functions.values()):
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
        if isinstance(built, Record):
            Record.__setstate__(built, state)
        elif type(built) is not OrderedDict:  # a state dict says the versions of its modules
            raise pickle.UnpicklingError(f"sets the state of a {type(built).__name__}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _held(self.stack[-1], dict)[_hashable(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        held = _held(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            held[_hashable(key)] = value

    def _append(self) -> None:
        value = self.stack.pop()
        _held(self.stack[-1], list).append(value)

    def _append_all(self) -> None:
        items = self.pop_mark()
        _held(self.stack[-1], list).extend(items)

    def _add_all(self) -> None:
        items = self.pop_mark()
        _held(self.stack[-1], set).update(map(_hashable, items))

    def _frozen_set(self) -> None:
        items = self.pop_mark()  # replaces self.append
        self.append(frozenset(map(_hashable, items)))

    def _frame(self) -> None:
        self.read(8)  # says how much to read ahead

    dispatch = _Steps(
        {
            **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
               for name in _AS_IN_PYTHON},
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
            # How protocol 5, the default since Python 3.14, writes arrays. Python's own step
            # allocates the buffer first; read as bytes, it takes no more than the file holds.
            pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
        }
    )  # fmt: skip


def _is_record_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Record)


def _held(holder: Any, kind: Callable[[], Any]) -> Any:
    """The dict, list or set itself, or what a record that stands for one holds."""
    if isinstance(holder, Record):
        holder = vars(holder).setdefault("__items__", kind())
    if type(holder) is not kind and not (kind is dict and type(holder) is OrderedDict):
        raise pickle.UnpicklingError(f"puts items into a {type(holder).__name__}")
    return holder


_DEEPEST = 100
_MOST = 1_000_000
_LARGEST = 2**1000  # fits a float, and has fewer digits than Python refuses to print


def check_plain(value: Any) -> None:
    """Raise `ValueError` where containers are nested too deeply or share too much.

    A list that holds another one twice, which holds a third one twice and so on takes a line per
    level in a file, and for ever to print.
    """
    records, seen = [value] if isinstance(value, Record) else [], set[int]()
    _expanded(value, {}, records, 0)
    while records:
        record = records.pop()
        if id(record) not in seen:
            seen.add(id(record))
            _expanded(vars(record), {}, records, 0)


def _expanded(value: Any, sizes: dict[int, int], records: list[Record], depth: int) -> int:
    """How many values there are when shared containers are counted wherever they are held."""
    if isinstance(value, Record):
        records.append(value)
        return 1
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise ValueError("holds an integer of over 300 digits")
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return 1
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} levels deep, or in itself")
    size = sizes.get(id(value))
    if size is None:
        size = 1 + sum(_expanded(child, sizes, records, depth + 1) for child in _children(value))
        sizes[id(value)] = size
    if size > _MOST:
        raise ValueError(f"holds more than {_MOST:,} values")
    return size


def _children(value: Any) -> Iterator[Any]:
    yield from value
    if isinstance(value, Mapping):
        yield from value.values()
