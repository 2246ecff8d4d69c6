"""Spec text with other bounds in it: the characters of these change, and no others."""

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
from sae_guard.specs.messages import Path as Keys
from sae_guard.specs.messages import explain, written
from sae_guard.specs.models import DocumentModel
from sae_guard.specs.strict_yaml import Path, Slot, Span, Tree, YamlError, slot, span
from sae_guard.specs.thresholds import target_of


@dataclass(frozen=True)
class NewBound:
    """A bound that is there, and what it is to be."""

    document: str
    """Its name, or the hook point of one without a name."""
    target: Target
    side: Side
    value: Decimal
    warn: bool = False
    """Whether it is the one that warns."""

    def __post_init__(self) -> None:
        if not self.value.is_finite():
            raise ValueError(f"{self} is to be {self.value}, expected a finite number")

    def __str__(self) -> str:
        return f"{self.target} {'warn ' if self.warn else ''}{self.side}"


def rewritten(data: bytes, bounds: Iterable[NewBound], *, file: str) -> bytes:
    """The bytes of a spec file with these bounds; all others are as they were.

    A bound that is an alias is written in its place. Numbers are written as decimals without an
    exponent, whole ones without a point where there was none.

    Args:
        data: The spec file.
        bounds: Each of which the file has.
        file: What to call it in messages.

    Raises:
        SpecError: Malformed; or it has no such bound, or one that an anchor has stand elsewhere
            too, or that has a tag. The message has a line ``file:line: …`` per problem.
    """
    text, parts = _parts(data, file)
    problems: list[Problem] = []
    edits: list[tuple[Place, Decimal]] = []
    expected = {name: copy.deepcopy(part.document.value) for name, part in parts.items()}
    for name, wanted in _by_document(bounds, parts, file).items():
        part = parts[name]
        places = Places(text, part.tree, wanted)
        for keys, value in wanted.items():
            try:
                edits.append((places.of(keys), value))
            except strict_yaml.YamlError as error:
                problems.append((error.line, error.message))
            _put(expected[name], keys, float(value))
    if problems:
        raise spec_error(problems, file)
    new = data[: len(data) - len(text.encode())] + _edited(text, edits).encode()
    if [document.value for document in strict_yaml.read(new)] != list(expected.values()):
        raise SpecError("the bounds cannot be changed alone", file=file, line=1)
    return new


class _Part(NamedTuple):
    document: strict_yaml.Document
    tree: strict_yaml.Tree
    model: DocumentModel


def _parts(data: bytes, file: str) -> tuple[str, dict[str, _Part]]:
    """The text, and its documents by their names."""
    parts: dict[str, _Part] = {}
    try:
        documents, text = strict_yaml.read(data), strict_yaml.decoded(data)
    except strict_yaml.YamlError as error:
        raise SpecError(error.message, file=file, line=error.line) from None
    for document, tree in zip(documents, strict_yaml.compose(text), strict=True):
        try:
            model = DocumentModel.model_validate(document.value)
        except ValidationError as error:
            problems = [(document.line_of(written(at)), said) for at, said in explain(error)]
            raise spec_error(problems, file) from None
        name = model.name or model.hook
        if name in parts:
            raise SpecError(f"name {name!r} is taken", file=file, line=document.line)
        parts[name] = _Part(document, tree, model)
    return text, parts


def _by_document(
    bounds: Iterable[NewBound], parts: dict[str, _Part], file: str
) -> dict[str, dict[Keys, Decimal]]:
    """Where the bounds stand, by the name of the document, → what they are to be."""
    found: dict[str, dict[Keys, Decimal]] = {}
    for bound in bounds:
        if bound.document not in parts:
            hint = allowed(bound.document, parts)
            raise SpecError(f"no document {bound.document!r}; {hint}", file=file, line=1)
        part = parts[bound.document]
        keys = next((keys for keys in _keys(part.model, bound) if _has(part, keys)), None)
        if keys is None:
            line = part.document.line
            raise SpecError(f"{bound.document} has no {bound}", file=file, line=line)
        found.setdefault(bound.document, {})[keys] = bound.value
    return found


def _keys(model: DocumentModel, bound: NewBound) -> Iterator[Keys]:
    """The keys that can lead to the bound: ``kl.p99`` is a key, or ``p99`` below ``kl``."""
    lists: list[tuple[Keys, Any, Any]] = [((), model.thresholds, None)]
    lists += [(("slices", i), part.thresholds, part.slice) for i, part in enumerate(model.slices)]
    for at, thresholds, by in lists:
        for name in thresholds:
            if target_of(name, by) == bound.target:
                below = (*at, "thresholds", name)
                for base in (below, written(below)):
                    yield from (
                        [(*base, "warn"), (*base, "warn", bound.side)]
                        if bound.warn
                        else [(*base, bound.side)]
                    )


def _has(part: _Part, keys: Keys) -> bool:
    """Whether a number stands there."""
    value: Any = part.document.value
    for key in keys:
        inside = isinstance(value, list) or (isinstance(value, dict) and key in value)
        value = value[key] if inside else None
    return isinstance(value, int | float)


def _put(value: Any, keys: Keys, number: float) -> None:
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = number


def _edited(text: str, edits: list[tuple[Place, Decimal]]) -> str:
    for place, value in sorted(edits, key=lambda edit: edit[0].span.start, reverse=True):
        start, end, _ = place.span
        text = text[:start] + _number(value, place.written) + text[end:]
    return text


def _number(value: Decimal, like: str) -> str:
    """As strict YAML has it; with a point where the text that it takes the place of has one."""
    if value == value.to_integral_value():
        # A larger one need not be the float that is nearest to it.
        whole = re.fullmatch("[-+]?[0-9]+", like) and abs(value) < 2**53
        return f"{int(value)}{'' if whole else '.0'}"
    return format(value, "f").rstrip("0")


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
