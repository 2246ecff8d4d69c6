"""Data from outside that is safe to print, to compare and to go through; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sae_guard.checkpoints.safe_pickle.inert import Record

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
