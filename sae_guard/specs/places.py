"""Where a scalar stands in the text of a document, if that is a place of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import yaml

from sae_guard.specs.strict_yaml import Path, Slot, Span, Tree, YamlError, slot, span


class Place(NamedTuple):
    """What to replace to change a scalar and nothing else."""

    span: Span
    written: str
    """The scalar there; where an alias stands, that of its anchor."""


class Places:
    """The places of some scalars of a document, all of which are to be replaced.

    An alias is replaced by the value itself. A scalar with an anchor can be replaced if all of
    its aliases are.
    """

    def __init__(self, text: str, tree: Tree, paths: Iterable[Path]) -> None:
        self._text = text
        self._tree = tree
        self._uses = _uses(tree.root)
        self._chains = {path: list(_chain(tree.root, path)) for path in paths}
        last = (chain[-1][0] for chain in self._chains.values())
        self._replaced = {slot for slot in last if slot in tree.aliases}

    def of(self, path: Path) -> Place:
        """The place of the scalar at one of the paths.

        Raises:
            YamlError: It is no plain number, or an anchor has it stand elsewhere too.
        """
        chain = self._chains[path]
        for at, (here, node) in enumerate(chain[:-1], start=1):
            for other in self._elsewhere(here, node):
                raise YamlError(
                    self._line(here, node),
                    f"`{_dotted(path[:at])}` is by an anchor the same as on line "
                    f"{self._line(other, node)}; write it out, to change a bound in one of them",
                )
        here, node = chain[-1]
        if not isinstance(node, yaml.ScalarNode):
            raise YamlError(self._line(here, node), f"`{_dotted(path)}` is no number")
        if here in self._tree.aliases:
            return Place(self._tree.aliases[here], node.value)
        for other in self._elsewhere(here, node):
            if other not in self._replaced:
                raise YamlError(
                    self._line(here, node),
                    f"`{_dotted(path)}` has an anchor that line {self._line(other, node)} uses "
                    "too; write the number out there",
                )
        return self._of_scalar(path, node)

    def _of_scalar(self, path: Path, node: yaml.ScalarNode) -> Place:
        whole = span(node)
        start = whole.end - len(node.value)
        plain = node.style is None and self._text[start : whole.end] == node.value
        if not plain or "!" in self._text[whole.start : start]:
            told = f"`{_dotted(path)}` has a tag; write it as a plain number"
            raise YamlError(whole.line, told)
        return Place(Span(start, whole.end, whole.line), node.value)

    def _elsewhere(self, here: Slot, node: yaml.Node) -> list[Slot]:
        return [other for other in self._uses[id(node)] if other != here]

    def _line(self, here: Slot, node: yaml.Node) -> int:
        return self._tree.aliases.get(here, span(node)).line


def _chain(root: yaml.Node, path: Path) -> Iterator[tuple[Slot, yaml.Node]]:
    """The nodes from below the root to the end of the path."""
    node = root
    for part in path:
        here, node = next((s, child) for key, s, child in _children(node) if key == part)
        yield here, node


def _uses(root: yaml.Node) -> Mapping[int, list[Slot]]:
    """By id of the node, where it stands."""
    uses: dict[int, list[Slot]] = defaultdict(list)
    left, seen = [root], set()
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            for _, here, child in _children(node):
                uses[id(child)].append(here)
                left.append(child)
    return uses


def _children(node: yaml.Node) -> Iterator[tuple[str | int, Slot, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, slot(node, key), value
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield index, slot(node, index), child


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
