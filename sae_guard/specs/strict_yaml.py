"""YAML without its surprises: what the text looks like is what is read, or it is an error.

PyYAML reads YAML 1.1, where `1e-3` is text, `off` is false, `010` is 8, `1:30` is 90 and the last
of two equal keys wins. In a threshold each of these is a gate that does not hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

_MAX_BYTES = 2**20
_MAX_NODES = 10_000
_CORE = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")

Path = tuple[str | int, ...]


class YamlError(Exception):
    """What is wrong, and on which line (from 1)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass
class Document:
    """One YAML document as plain values, and the line on which each of them stands."""

    value: Any
    line: int
    lines: dict[Path, int] = field(default_factory=dict)
    """Path of keys and indices → line of the key, or of the item."""

    def line_of(self, path: Path) -> int:
        """The line of the value at ``path``, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


def read(data: bytes) -> list[Document]:
    """The documents of a YAML file.

    Raises:
        YamlError: It is no YAML, or says something that readers of YAML take in different ways.
    """
    text = decoded(data)
    with _as_yaml_error(text):
        return [_document(tree.root) for tree in compose(text)]


def decoded(data: bytes) -> str:
    """The text of a file, without a byte order mark; raises `YamlError`."""
    if len(data) > _MAX_BYTES:
        raise YamlError(1, f"{len(data):,} bytes; a spec file has at most {_MAX_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(line, f"not UTF-8: byte {data[error.start]:#04x}") from None


class Span(NamedTuple):
    """Characters of the text, and the line (from 1) of the first."""

    start: int
    end: int
    line: int


def span(of: yaml.Node | yaml.Event) -> Span:
    """Where a node stands, its anchor and tag included."""
    assert of.start_mark is not None
    assert of.end_mark is not None
    return Span(of.start_mark.index, of.end_mark.index, of.start_mark.line + 1)


Slot = tuple[int, int]
"""Where in its parent a node stands: ids of the parent and of the key's node, or an index."""


@dataclass(frozen=True)
class Tree:
    """The nodes of one document."""

    root: yaml.Node
    aliases: Mapping[Slot, Span]
    """The alias in each slot that has one; the node there is that of the anchor."""


def compose(text: str) -> Iterator[Tree]:
    """The trees of a text; raises what PyYAML does."""
    loader = _Loader(text)
    while loader.check_node():
        loader.aliases = {}
        root = loader.get_node()
        assert root is not None
        yield Tree(root, loader.aliases)


def slot(parent: yaml.Node, index: yaml.Node | int) -> Slot:
    """The slot of a key's value, or of an item."""
    return id(parent), index if isinstance(index, int) else id(index)


class _Loader(yaml.SafeLoader):
    """Remembers where aliases stand, of which the nodes know nothing."""

    aliases: dict[Slot, Span]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent) and parent is not None and index is not None:
            self.aliases[slot(parent, index)] = span(event)
        return node


@contextmanager
def _as_yaml_error(text: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise YamlError(line, f"not YAML: character {error.character!r}") from None
    except RecursionError:
        raise YamlError(1, "nested too deeply") from None


def _document(node: yaml.Node) -> Document:
    document = Document(None, _line(node))
    builder = _Builder(document)
    document.value = builder.build(node, ())
    return document


class _Builder:
    """Builds the values of one document and notes their lines."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._built = 0
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._built += 1  # aliases count each time: nine levels of nine are a billion
        if self._built > _MAX_NODES:
            raise YamlError(_line(node), f"more than {_MAX_NODES:,} values (aliases expanded)")
        self._document.lines.setdefault(path, _line(node))
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        expected = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != _CORE + expected:
            raise YamlError(_line(node), f"tag {node.tag!r} is not read; leave it out")
        if any(node is parent for parent in self._open):
            raise YamlError(_line(node), "an alias points at a value that it is part of")
        self._open.append(node)
        value = self._list(node, path) if expected == "seq" else self._mapping(node, path)
        self._open.pop()
        return value

    def _list(self, node: yaml.Node, path: Path) -> list[Any]:
        return [self.build(child, (*path, at)) for at, child in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in seen:
                raise YamlError(
                    _line(key_node), f"key {key!r} appears twice, first on line {seen[key]}"
                )
            below = (*path, key)
            seen[key] = self._document.lines[below] = _line(key_node)
            mapping[key] = self.build(value_node, below)
        return mapping


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(_line(node), "a key is text, not a list or a mapping")
    if node.tag == _CORE + "merge":
        raise YamlError(_line(node), "merge keys (<<) are not read; write the keys out")
    key = _scalar(node)
    if not isinstance(key, str):
        raise YamlError(_line(node), f"key {node.value!r} is read as {key!r}; put it in quotes")
    return key


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    if node.style is not None and node.tag == _CORE + "str":
        return str(node.value)
    kind, text = node.tag.removeprefix(_CORE), str(node.value)
    for problem in _problems(kind, text):
        raise YamlError(_line(node), problem)
    if kind == "bool":
        return text.lower() == "true"
    if kind == "null":
        return None
    if kind == "int":
        return int(text)
    return float(text) if kind == "float" else text


def _problems(kind: str, text: str) -> Iterator[str]:
    """Why a plain scalar is not what it looks like."""
    if kind not in ("str", "int", "float", "bool", "null"):
        what = {"timestamp": "is read as a date"}.get(kind, f"has the tag {kind!r}, which is none")
        yield f"{text!r} {what}; put it in quotes if it is text"
    elif kind == "bool" and text.lower() not in ("true", "false"):
        read = text.lower() in ("yes", "on")
        yield f"{text!r} is read as {str(read).lower()}; write true or false, or put it in quotes"
    elif kind == "int" and not _WHOLE.fullmatch(text):
        yield f"{text!r} is no plain decimal number (octal, hexadecimal, base 60 or underscores)"
    elif kind == "float" and not (_DECIMAL.fullmatch(text) and math.isfinite(float(text))):
        yield f"{text!r} is no finite decimal number"
    elif kind == "str" and _is_number(text):
        yield f"{text!r} is read as text; write the number as {_as_yaml(text)}, or put it in quotes"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_yaml(text: str) -> str:
    value = float(text)
    if not math.isfinite(value):
        return "a finite decimal number"
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
