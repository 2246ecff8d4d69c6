"""Change bounds in the text of a spec file: their characters change, and no others do."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from sae_guard.core.metrics import Side
from sae_guard.core.targets import Target
from sae_guard.errors import SpecError, allowed
from sae_guard.specs import strict_yaml
from sae_guard.specs.load import Problem, spec_error
from sae_guard.specs.messages import explain, yaml_path
from sae_guard.specs.models import DocumentModel
from sae_guard.specs.strict_yaml import KeyPath, Slot, Span, Tree, YamlError, slot, span
from sae_guard.specs.thresholds import target_of


@dataclass(frozen=True)
class NewBound:
    """A bound of a spec file, and its new value."""

    document: str
    """Name of the document, or its hook point where it has no name."""
    target: Target
    side: Side
    value: Decimal
    """New value."""
    warn: bool = False
    """True for the warn bound of this side."""

    def __post_init__(self) -> None:
        if not self.value.is_finite():
            raise ValueError(f"the new value of {self} is {self.value}, expected a finite number")

    def __str__(self) -> str:
        return f"{self.target} {'warn ' if self.warn else ''}{self.side}"


def replace_bounds(data: bytes, bounds: Iterable[NewBound], *, file: str) -> bytes:
    """Return the bytes of a spec file with these bounds changed and everything else as it was.

    A bound that is an alias is replaced by its new value; the anchor keeps the old one. Numbers
    are written as decimals without an exponent, integers without a point where there was none.

    Args:
        data: The spec file.
        bounds: BoundsModel that the file has, with their new values.
        file: Name of the file in messages.

    Raises:
        SpecError: The file is malformed or lacks one of the bounds; or a bound has a tag, or an
            anchor whose aliases would change too. The message has a line ``file:line: …`` per
            problem.
    """
    # Apply the new values twice, to the text and to the parsed documents, and compare.
    text, parts = _parts(data, file)
    problems: list[Problem] = []
    edits: list[tuple[ScalarText, Decimal]] = []
    expected = {name: copy.deepcopy(part.document.value) for name, part in parts.items()}
    for name, new_values in _new_values(bounds, parts, file).items():
        scalars = ScalarTexts(text, parts[name].tree, new_values)
        for path, value in new_values.items():
            try:
                edits.append((scalars.find(path), value))
            except strict_yaml.YamlError as error:
                problems.append((error.line, error.message))
            _set(expected[name], path, float(value))
    if problems:
        raise spec_error(problems, file)
    byte_order_mark = data[: len(data) - len(text.encode())]  # `decode` leaves it out
    new_data = byte_order_mark + _apply(edits, text).encode()
    # Read back: a gate must not run with bounds that nobody asked for.
    if [document.value for document in strict_yaml.read(new_data)] != list(expected.values()):
        raise SpecError(
            "the bounds cannot be changed without changing something else; change them by hand",
            file=file,
            line=1,
        )
    return new_data


class _Part(NamedTuple):
    """One document of the file: its values, its nodes, and its validated model."""

    document: strict_yaml.YamlDocument
    tree: strict_yaml.Tree
    model: DocumentModel


def _parts(data: bytes, file: str) -> tuple[str, dict[str, _Part]]:
    """Return the text of the file, and its documents by their names."""
    parts: dict[str, _Part] = {}
    try:
        documents, text = strict_yaml.read(data), strict_yaml.decode(data)
    except strict_yaml.YamlError as error:
        raise SpecError(error.message, file=file, line=error.line) from None
    for document, tree in zip(documents, strict_yaml.compose(text), strict=True):
        try:
            model = DocumentModel.model_validate(document.value)
        except ValidationError as error:
            problems = [
                (document.line_of(yaml_path(path)), sentence) for path, sentence in explain(error)
            ]
            raise spec_error(problems, file) from None
        name = model.name or model.hook
        if name in parts:
            first = parts[name].document.line
            raise SpecError(
                f"name {name!r} is taken by the document on line {first}; give each document its "
                "own `name`",
                file=file,
                line=document.line,
            )
        parts[name] = _Part(document, tree, model)
    return text, parts


def _new_values(
    bounds: Iterable[NewBound], parts: dict[str, _Part], file: str
) -> dict[str, dict[KeyPath, Decimal]]:
    """Map the name of each document to its bounds: key path → new value."""
    new_values: dict[str, dict[KeyPath, Decimal]] = {}
    for bound in bounds:
        if bound.document not in parts:
            hint = allowed(bound.document, parts)
            raise SpecError(f"no document {bound.document!r}; {hint}", file=file, line=1)
        part = parts[bound.document]
        candidates = _candidate_paths(part.model, bound)
        path = next((path for path in candidates if _is_number(part, path)), None)
        if path is None:
            line = part.document.line
            raise SpecError(f"{bound.document} has no {bound}", file=file, line=line)
        new_values.setdefault(bound.document, {})[path] = bound.value
    return new_values


def _candidate_paths(model: DocumentModel, bound: NewBound) -> Iterator[KeyPath]:
    """Yield the paths where the bound can be: ``kl.p99`` is one key, or ``p99`` below ``kl``."""
    for block, thresholds, slice in model.blocks:
        for name in thresholds:
            if target_of(name, slice) == bound.target:
                one_key = (*block, "thresholds", name)
                for parent in (one_key, yaml_path(one_key)):
                    yield from (
                        [(*parent, "warn"), (*parent, "warn", bound.side)]
                        if bound.warn
                        else [(*parent, bound.side)]
                    )


def _is_number(part: _Part, path: KeyPath) -> bool:
    value: Any = part.document.value
    for key in path:
        exists = isinstance(value, list) or (isinstance(value, dict) and key in value)
        value = value[key] if exists else None
    return isinstance(value, int | float)


def _set(value: Any, path: KeyPath, number: float) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = number


def _apply(edits: list[tuple[ScalarText, Decimal]], text: str) -> str:
    # From the end of the text to its start, so that the spans still to come stay right.
    for scalar, value in sorted(edits, key=lambda edit: edit[0].span.start, reverse=True):
        start, end, _ = scalar.span
        text = text[:start] + _number(value, scalar.value) + text[end:]
    return text


def _number(value: Decimal, old: str) -> str:
    """Return the number as strict YAML reads it, with a point if the old text has one."""
    if value == value.to_integral_value():
        # Above 2**53 not every integer is a float: written as a float, it is read as one.
        as_integer = re.fullmatch("[-+]?[0-9]+", old) and abs(value) < 2**53
        return f"{int(value)}{'' if as_integer else '.0'}"
    return format(value, "f").rstrip("0")


class ScalarText(NamedTuple):
    """The characters to replace in order to change one scalar and nothing else."""

    span: Span
    value: str
    """Text of the scalar; for an alias, that of its anchor."""


class ScalarTexts:
    """Finds the characters of scalars of a document, all of which will be replaced.

    An alias is replaced by the value itself. A scalar with an anchor can be replaced only if all
    of its aliases are replaced too.
    """

    def __init__(self, text: str, tree: Tree, paths: Iterable[KeyPath]) -> None:
        self._text = text
        self._tree = tree
        self._slots = _slots_by_node(tree.root)
        self._chains = {path: list(_chain(tree.root, path)) for path in paths}
        last_slots = (chain[-1][0] for chain in self._chains.values())
        self._replaced_aliases = {slot for slot in last_slots if slot in tree.aliases}

    def find(self, path: KeyPath) -> ScalarText:
        """Return the characters of the scalar at one of the paths.

        Raises:
            YamlError: It is no plain number, or its change would show through an alias elsewhere.
        """
        chain = self._chains[path]
        # A shared list or mapping: the bound in it would change in several places.
        for depth, (parent_slot, node) in enumerate(chain[:-1], start=1):
            for other_slot in self._other_slots(parent_slot, node):
                raise YamlError(
                    self._line(parent_slot, node),
                    f"`{_dotted(path[:depth])}` is shared by an anchor with line "
                    f"{self._line(other_slot, node)}; write it out in both places, to change a "
                    "bound in one of them",
                )
        scalar_slot, node = chain[-1]
        if not isinstance(node, yaml.ScalarNode):
            raise YamlError(self._line(scalar_slot, node), f"`{_dotted(path)}` is no number")
        # An alias can go without its anchor: write the number in its place.
        if scalar_slot in self._tree.aliases:
            return ScalarText(self._tree.aliases[scalar_slot], node.value)
        for other_slot in self._other_slots(scalar_slot, node):
            if other_slot not in self._replaced_aliases:
                raise YamlError(
                    self._line(scalar_slot, node),
                    f"`{_dotted(path)}` has an anchor that line {self._line(other_slot, node)} "
                    "uses too; write the number out there",
                )
        return self._plain_scalar(path, node)

    def _plain_scalar(self, path: KeyPath, node: yaml.ScalarNode) -> ScalarText:
        # The span of a node begins with its anchor and tag; the number is at its end.
        node_span = span(node)
        start = node_span.end - len(node.value)
        plain = node.style is None and self._text[start : node_span.end] == node.value
        if not plain or "!" in self._text[node_span.start : start]:
            raise YamlError(
                node_span.line, f"`{_dotted(path)}` has a tag; write it as a plain number"
            )
        return ScalarText(Span(start, node_span.end, node_span.line), node.value)

    def _other_slots(self, slot: Slot, node: yaml.Node) -> list[Slot]:
        return [other for other in self._slots[id(node)] if other != slot]

    def _line(self, slot: Slot, node: yaml.Node) -> int:
        return self._tree.aliases.get(slot, span(node)).line


def _chain(root: yaml.Node, path: KeyPath) -> Iterator[tuple[Slot, yaml.Node]]:
    """Yield slot and node for each key of the path, from the root down."""
    node = root
    for part in path:
        child_slot, node = next((s, child) for key, s, child in _children(node) if key == part)
        yield child_slot, node


def _slots_by_node(root: yaml.Node) -> Mapping[int, list[Slot]]:
    """Map the `id` of each node to the slots that it fills: one, and one more for each alias."""
    slots: dict[int, list[Slot]] = defaultdict(list)
    queue, visited = [root], set()
    while queue:
        node = queue.pop()
        if id(node) not in visited:
            visited.add(id(node))
            for _, child_slot, child in _children(node):
                slots[id(child)].append(child_slot)
                queue.append(child)
    return slots


def _children(node: yaml.Node) -> Iterator[tuple[str | int, Slot, yaml.Node]]:
    """Yield key or index, slot and node of each child."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, slot(node, key), value
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield index, slot(node, index), child


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
