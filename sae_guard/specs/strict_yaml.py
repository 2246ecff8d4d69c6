"""Read YAML strictly: a value is what it looks like, or it is an error.

PyYAML reads YAML 1.1, where `1e-3` is text, `off` is false, `010` is 8, `1:30` is 90 and the last
of two equal keys wins. In a threshold, each of these would let a bad release pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

# Far above any real spec: these limits are against hostile files.
_MAX_BYTES = 2**20
_MAX_NODES = 10_000
_CORE = "tag:yaml.org,2002:"  # in front of the tags of YAML's own types
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
# The sign of the exponent is required: YAML 1.1 takes `1.0e3` for text.
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")

KeyPath = tuple[str | int, ...]
"""Keys and indices that lead from the root of a document to a value."""


class YamlError(Exception):
    """The text is not YAML as this module reads it; has the line, from 1, and a message."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass
class YamlDocument:
    """One YAML document as plain Python values, with the line of each of them."""

    value: Any
    line: int
    """First line of the document, from 1."""
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """Line of each key, or of each item of a list, from 1."""

    def line_of(self, path: KeyPath) -> int:
        """Return the line of the value at ``path``, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


def read(data: bytes) -> list[YamlDocument]:
    """Read the documents of a YAML file.

    Raises:
        YamlError: It is not YAML, or holds a value that YAML readers disagree about.
    """
    text = decode(data)
    with _as_yaml_error(text):
        return [_document(tree.root) for tree in compose(text)]


def decode(data: bytes) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        YamlError: The file is not UTF-8, or larger than a spec file may be.
    """
    if len(data) > _MAX_BYTES:
        raise YamlError(1, f"the file has {len(data):,} bytes; allowed: at most {_MAX_BYTES:,}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(line, f"not UTF-8: byte {data[error.start]:#04x}") from None


class Span(NamedTuple):
    """A range of characters of the text, the end excluded, and the line of the first, from 1."""

    start: int
    end: int
    line: int


def span(node: yaml.Node | yaml.Event) -> Span:
    """Return the characters of a node, its anchor and tag included."""
    assert node.start_mark is not None
    assert node.end_mark is not None
    return Span(node.start_mark.index, node.end_mark.index, node.start_mark.line + 1)


Slot = tuple[int, int]
"""Position of a node in its parent: `id` of the parent, and `id` of the key's node or an index.

An anchored node is one object with several parents: its own `id` does not tell where it stands.
"""


@dataclass(frozen=True)
class Tree:
    """The nodes of one document."""

    root: yaml.Node
    aliases: Mapping[Slot, Span]
    """Slot → where its alias ``*name`` stands in the text; its node is the anchored one."""


def compose(text: str) -> Iterator[Tree]:
    """Yield the node tree of each document of a text.

    Raises:
        yaml.YAMLError: The text is not YAML.
    """
    loader = _Loader(text)
    # Aliases are keyed by `id`, which is unique only while the nodes of a document exist.
    while loader.check_node():
        loader.aliases = {}
        root = loader.get_node()
        assert root is not None
        yield Tree(root, loader.aliases)


def slot(parent: yaml.Node, index: yaml.Node | int) -> Slot:
    """Return the slot of a key's value, or of an item of a list."""
    return id(parent), index if isinstance(index, int) else id(index)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which also records the aliases: its nodes do not."""

    aliases: dict[Slot, Span]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Before the node is composed, which consumes the event.
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


def _document(node: yaml.Node) -> YamlDocument:
    document = YamlDocument(None, span(node).line)
    builder = _Builder(document)
    document.value = builder.build(node, ())
    return document


class _Builder:
    """Builds the values of one document and records their lines."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._count = 0
        self._ancestors: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        # Aliases count each time they are used: nine levels of ten aliases make a billion values.
        self._count += 1
        if self._count > _MAX_NODES:
            raise YamlError(span(node).line, f"more than {_MAX_NODES:,} values (aliases expanded)")
        self._document.lines.setdefault(path, span(node).line)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        # A list or mapping may have no tag of its own: no Python objects, sets or ordered maps.
        expected = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != _CORE + expected:
            raise YamlError(span(node).line, f"tag {node.tag!r} is not supported; leave it out")
        if any(node is ancestor for ancestor in self._ancestors):
            raise YamlError(span(node).line, "an alias points at a value that contains it")
        self._ancestors.append(node)
        value = self._list(node, path) if expected == "seq" else self._mapping(node, path)
        self._ancestors.pop()
        return value

    def _list(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            line, key_path = span(key_node).line, (*path, key)
            if key in first_line:
                message = f"key {key!r} appears twice, first on line {first_line[key]}"
                raise YamlError(line, message)
            first_line[key] = self._document.lines[key_path] = line
            mapping[key] = self.build(value_node, key_path)
        return mapping


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(span(node).line, "a key has to be text, not a list or a mapping")
    if node.tag == _CORE + "merge":
        raise YamlError(span(node).line, "merge keys (<<) are not supported; write the keys out")
    key = _scalar(node)
    # `1:` or `on:` as a key: what looks like text is read as something else.
    if not isinstance(key, str):
        raise YamlError(span(node).line, f"key {node.value!r} is read as {key!r}; put it in quotes")
    return key


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    if node.style is not None and node.tag == _CORE + "str":  # in quotes: text for certain
        return str(node.value)
    kind, text = node.tag.removeprefix(_CORE), str(node.value)
    for problem in _problems(kind, text):
        raise YamlError(span(node).line, problem)
    if kind == "bool":
        return text.lower() == "true"
    if kind == "null":
        return None
    if kind == "int":
        return int(text)
    return float(text) if kind == "float" else text


def _problems(kind: str, text: str) -> Iterator[str]:
    """Yield why YAML 1.1 reads a scalar without quotes as something else than it looks like."""
    if kind not in ("str", "int", "float", "bool", "null"):
        reading = {"timestamp": "is read as a date"}.get(
            kind, f"has the tag {kind!r}, which is not supported"
        )
        yield f"{text!r} {reading}; put it in quotes if it is text"
    elif kind == "bool" and text.lower() not in ("true", "false"):
        truth = text.lower() in ("yes", "on")
        yield f"{text!r} is read as {str(truth).lower()}; write true or false, or put it in quotes"
    elif kind == "int" and not _INTEGER.fullmatch(text):
        yield (
            f"{text!r} is no plain decimal number: YAML takes it for octal, hexadecimal or base "
            "60, or skips its underscores; write it in decimal digits, or put it in quotes"
        )
    elif kind == "float" and not (_DECIMAL.fullmatch(text) and math.isfinite(float(text))):
        yield f"{text!r} is no finite decimal number; write one such as 0.5 or 1.0e-3"
    elif kind == "str" and _is_number(text):
        yield f"{text!r} is read as text; write the number as {_as_yaml(text)}, or put it in quotes"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_yaml(text: str) -> str:
    """Return a number as YAML 1.1 reads it: with a point, which `1e-3` lacks."""
    value = float(text)
    if not math.isfinite(value):
        return "a finite decimal number"
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"
