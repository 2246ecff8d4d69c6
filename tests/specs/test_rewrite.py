"""Rewriting a spec changes the text of the bounds alone, whatever the text around them is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from sae_guard.core.targets import Slice, Target
from sae_guard.errors import SpecError
from sae_guard.specs.rewrite import NewBound, replace_bounds
from sae_guard.specs.strict_yaml import read

Keys = tuple[str | int, ...]


@dataclass
class Number:
    """A bound in a generated text."""

    new: NewBound
    keys: Keys
    document: int
    """Index of its document in the file."""
    anchor: str
    """Name of the anchor that it has or, as an alias, refers to; empty without one."""
    alias: bool
    old: str
    """Old number, as text."""


@dataclass
class SpecText:
    """A generated spec file in pieces: bounds, and the text between them, which has to stay."""

    pieces: list[str | Number] = field(default_factory=list)
    byte_order_mark: str = ""

    @property
    def numbers(self) -> list[Number]:
        return [piece for piece in self.pieces if isinstance(piece, Number)]

    def text(self, number_text: Callable[[Number], str]) -> str:
        return "".join(p if isinstance(p, str) else number_text(p) for p in self.pieces)


SLICES: list[tuple[dict[str, str], Slice]] = [
    ({"position": "..8"}, Slice("position", 0, 8)),
    ({"entropy": "3.."}, Slice("entropy", 3)),
    ({"source": "arxiv*"}, Slice("source", glob="arxiv*")),
    ({"source": "büchér: #1, {x}"}, Slice("source", glob="büchér: #1, {x}")),
]
SHAPES: list[dict[str, Any]] = [
    {"kl": {"max": 1}},
    {"kl": {"max": 1, "warn": 1, "p99": {"max": 1, "warn": 1}, "worst_sequence": {"max": 1}}},
    {"kl": {"confidence": "0.99", "max": 1}, "kl.p50": {"max": 1}},
    {"l0": {"min": 1, "max": 1, "warn": {"min": 1, "max": 1}}},
    {"reconstruction_score[mean]": {"min": 1, "warn": 1}, "ce_increase": {"max": 1}},
]
OLD = ["0.3", ".3", "+0.25", "3.0e-1", "24", "24.0", "-7", "0.30000000000000004", "1.", "0"]
NEW = ["0.125", "12", "0.000000137", "-0.5", "1E+2", "0", "1.50", "7E-9", "-3", "123456.75"]
WORDS = ["max: 0.3", "*a1", "&a1 0.3", "# }", "ä…🙂", "'", '"', "---", "<<: *x", "\t", "- "]
SAFE = {"kl", "max", "min", "gpt2", "true", "0.99"}


class Writer:
    """Writes documents in some of the many ways that YAML has."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.out = SpecText()
        self.document = 0
        self.anchors: list[tuple[str, str]] = []
        """Anchor and number of the anchored bounds of this document."""

    def chance(self, one_in: int) -> bool:
        return bool(self.draw(st.integers(1, one_in)) == one_in)

    def write(self, *pieces: str | Number) -> None:
        self.out.pieces.extend(piece for piece in pieces if piece)

    def comment(self) -> str:
        return " # " + " ".join(self.draw(st.lists(st.sampled_from(WORDS), max_size=3)))

    def break_line(self) -> None:
        self.write((self.comment() if self.chance(3) else " " if self.chance(9) else "") + "\n")
        while self.chance(4):
            indent = " " * self.draw(st.integers(0, 5))
            self.write(f"{indent}{self.comment()}\n" if self.chance(2) else "\n")

    def scalar(self, value: str) -> str:
        plain = value if value in SAFE or value.replace("_", "").isalnum() else None
        if value in ("true", "0.99"):
            return value
        styles = ["'" + value.replace("'", "''") + "'", '"' + value + '"', *([plain] * 3)]
        return str(self.draw(st.sampled_from([style for style in styles if style])))

    def number(self, new: NewBound, keys: Keys) -> None:
        old = self.draw(st.sampled_from(OLD))
        if self.anchors and self.chance(4):
            anchor, old = self.draw(st.sampled_from(self.anchors))
            self.write(Number(new, keys, self.document, anchor, alias=True, old=old))
            return
        anchor = f"a{len(self.anchors)}" if self.chance(4) else ""
        if anchor:
            self.anchors.append((anchor, old))
            self.write(f"&{anchor} ")
        self.write(Number(new, keys, self.document, anchor, alias=False, old=old))

    def value(self, value: Any, indent: int, keys: Keys, slice: Slice | None, flow: bool) -> None:
        """Write a value after its key, or after the dash of its item; ``keys`` lead to it."""
        if value == 1:
            self.write(" ")
            self.number(bound(f"d{self.document}", keys, slice, self.draw(numbers)), keys)
        elif isinstance(value, str):
            self.write(f" {self.scalar(value)}")
        elif flow or self.chance(3):
            self.write(f" &unused{len(self.out.pieces)}" if self.chance(9) else "")
            self.flow(value, indent, keys, slice)
        else:
            self.break_line()
            self.block(value, indent + self.draw(st.integers(1, 4)), keys, slice)
            return
        if not flow:
            self.break_line()

    def flow(self, value: Any, indent: int, keys: Keys, slice: Slice | None) -> None:
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        self.write(f" {opening}")
        for index, (key, child) in enumerate(entries(value)):
            self.write(", " if index else "")
            if self.chance(6):
                self.write(f"{self.comment()}\n{' ' * (indent + 2)}")
            if isinstance(value, dict):
                self.write(f"{self.scalar(key)}:")
            self.value(child, indent, (*keys, key), slice_of(child, slice), flow=True)
        self.write(", " if self.chance(5) else "", closing)

    def block(self, value: Any, indent: int, keys: Keys, slice: Slice | None) -> None:
        for key, child in entries(value):
            name = f"{self.scalar(key)}:" if isinstance(value, dict) else "-"
            self.write(" " * indent + name)
            self.value(child, indent, (*keys, key), slice_of(child, slice), flow=False)


def entries(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value)


def slice_of(value: Any, outer: Slice | None) -> Slice | None:
    """Return the slice that a mapping of ``slices`` selects, or else the one around it."""
    if not (isinstance(value, dict) and "thresholds" in value):
        return outer
    return next((slice for keys, slice in SLICES if keys.items() <= value.items()), outer)


def bound(document: str, keys: Keys, slice: Slice | None, value: Decimal) -> NewBound:
    """Return the bound that the keys lead to, with a new value."""
    _, name, *rest = keys[keys.index("thresholds") :]
    target, warn = replace(Target.parse(str(name)), slice=slice), "warn" in rest
    if rest[0] not in ("max", "min", "warn"):
        target = replace(target, statistic=str(rest[0]))
    side = rest[-1] if rest[-1] != "warn" else ("min" if target.metric.startswith("rec") else "max")
    return NewBound(document, target, side, value, warn)  # type: ignore[arg-type]


numbers = st.sampled_from(NEW).map(Decimal)
thresholds = st.sampled_from(SHAPES)
slices = st.lists(st.sampled_from(range(len(SLICES))), max_size=3, unique=True)


@st.composite
def spec_texts(draw: st.DrawFn) -> SpecText:
    writer = Writer(draw)
    for document in range(draw(st.integers(1, 3))):
        writer.document, writer.anchors = document, []
        if document or draw(st.booleans()):
            writer.write("---")
            writer.break_line()
        value: dict[str, Any] = {
            "name": f"d{document}",
            "model": draw(st.sampled_from(["gpt2", "größe 🙂: '1'", {"name": "gpt2"}])),
            "hook": "blocks.8.hook_resid_pre",
            "data": {"text": ["a.txt", "b: #.txt"], "prepend_bos": "true"},
            "thresholds": draw(thresholds),
            "slices": [{**SLICES[i][0], "thresholds": draw(thresholds)} for i in draw(slices)],
        }
        keys = draw(st.permutations(sorted(value)))
        writer.block({key: value[key] for key in keys if value[key]}, 0, (), None)
        if writer.chance(6):
            writer.write("...\n")
    out = writer.out
    if draw(st.booleans()):
        out.pieces = [p.replace("\n", "\r\n") if isinstance(p, str) else p for p in out.pieces]
    out.byte_order_mark = draw(st.sampled_from(["", "", "\ufeff"]))
    return out


def old_text(number: Number) -> str:
    return f"*{number.anchor}" if number.alias else number.old


@given(spec_texts(), st.data())
def test_only_the_characters_of_the_bounds_change(text: SpecText, data: st.DataObject) -> None:
    changed = [number for number in text.numbers if data.draw(st.booleans())]
    old = text.byte_order_mark + text.text(old_text)
    unchanged_aliases = {
        (n.document, n.anchor) for n in text.numbers if n.alias and n not in changed
    }
    if any((n.document, n.anchor) in unchanged_aliases for n in changed if not n.alias):
        event("refused")
        with pytest.raises(SpecError, match=r"s\.yaml:\d+: .* has an anchor that line \d+ uses"):
            replace_bounds(old.encode(), [n.new for n in changed], file="s.yaml")
        return
    event("rewritten")
    new = replace_bounds(old.encode(), [n.new for n in changed], file="s.yaml").decode()

    expected = [copy.deepcopy(document.value) for document in read(old.encode())]
    texts = new_texts(text, changed, new.removeprefix(text.byte_order_mark))
    for number in changed:
        put(expected[number.document], number.keys, float(number.new.value))
        assert float(texts[id(number)]) == float(number.new.value)
        assert ("." in texts[id(number)]) >= ("." in number.old)
    assert list(yaml.safe_load_all(new.removeprefix("\ufeff"))) == expected
    assert [document.value for document in read(new.encode())] == expected
    assert new == text.byte_order_mark + text.text(lambda n: texts.get(id(n), old_text(n)))


def new_texts(text: SpecText, changed: list[Number], new: str) -> dict[int, str]:
    """Return the new text of each changed bound, by its `id`; all else has to be unchanged."""
    texts, position = {}, 0
    for index, piece in enumerate(text.pieces):
        if isinstance(piece, Number) and any(piece is n for n in changed):
            next_piece = text.pieces[index + 1]
            assert isinstance(next_piece, str)
            end = new.index(next_piece[:1], position)
            texts[id(piece)] = new[position:end]
            position = end
        else:
            unchanged = piece if isinstance(piece, str) else old_text(piece)
            assert new.startswith(unchanged, position)
            position += len(unchanged)
    assert position == len(new)
    return texts


def put(value: Any, keys: Keys, number: float) -> None:
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = number


HEAD = "hook: h\nmodel: gpt2\ndata: {text: a.txt, prepend_bos: true}\n"


def change(text: str, *bounds: tuple[str, str], document: str = "h") -> str:
    new = [
        NewBound(document, Target.parse(target), "max", Decimal(value)) for target, value in bounds
    ]
    return replace_bounds((HEAD + text).encode(), new, file="s.yaml").decode().removeprefix(HEAD)


def test_integers_stay_integers_and_floats_floats() -> None:
    text = "thresholds: {l0: {max: %s}}"
    for old, new, expected in [
        ("24", "17", "17"), ("24.0", "17", "17.0"), ("24", "16.8", "16.8"), ("24", "1E+2", "100"),
        ("0.5", "0.000001", "0.000001"),
        ("24", "1E+23", "100000000000000000000000.0"), ("5.0e-1", "2E+1", "20.0"),
        ("0.5", "0.500", "0.5"),
    ]:  # fmt: skip
        assert change(text % old, ("l0", new)) == text % expected


def test_an_alias_is_replaced_by_the_value() -> None:
    text = "thresholds:\n  kl: {max: &b 0.3}  # as l0\n  ce_increase: {max: *b}\n"
    assert change(text, ("ce_increase", "0.2")) == text.replace("*b", "0.2")
    both = change(text, ("kl", "0.1"), ("ce_increase", "0.2"))
    assert both == text.replace("*b", "0.2").replace("0.3", "0.1")
    with pytest.raises(SpecError) as caught:
        change(text, ("kl", "0.1"))
    assert str(caught.value).startswith(
        "s.yaml:5: `thresholds.kl.max` has an anchor that line 6 uses too; write the number out"
    )


@pytest.mark.parametrize(
    "text",
    [
        "thresholds:\n  ? kl\n  : ? max\n    : % # 0.3\n",
        "thresholds: { 'kl' : { ? max : % , }, }\n...\n# 0.3",
        "thresholds:\n  kl:\n    max:\n\n      # 0.3\n      %\n",
        'thresholds: {"\\x6bl": {"max":%}}',
        "slices: [{position: ..8, thresholds: {kl: {max: 0.3}}}]\nthresholds: {kl: {max: %}}",
    ],
)
def test_bounds_in_odd_but_valid_texts_are_changed(text: str) -> None:
    assert change(text.replace("%", "0.3"), ("kl", "0.25")) == text.replace("%", "0.25")


def test_an_anchor_without_aliases_stays() -> None:
    text = "thresholds:\n  kl: &k {max: &b 0.3}\n"
    assert change(text, ("kl", "0.1")) == text.replace("0.3", "0.1")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("thresholds:\n  kl: &k {max: 0.3}\n  ce_increase: *k\n", 5, "with line 6"),
        ("thresholds:\n  ce_increase: &k {max: 0.3}\n  kl: *k\n", 6, "with line 5"),
        ("thresholds: &t {kl: {max: 1}}\nslices: [{position: ..8, thresholds: *t}]", 4, "line 5"),
        ("slices:\n- position: ..8\n  thresholds: &t\n    kl: {max: 1}\nthresholds: *t", 8, "ne 6"),
        ("thresholds: {kl: {max: !!float 0.3}}", 4, "has a tag; write it as a plain number"),
        ("thresholds: {kl: {max: !!float '0.3'}}", 4, "has a tag; write it as a plain number"),
        ("thresholds: {kl: {max: &b !!float 0.3}}", 4, "has a tag; write it as a plain number"),
        ("thresholds: {kl: {min: 1}}", 1, "h has no kl max"),
        ("thresholds: {kl: {p99: {max: 1}}}", 1, "h has no kl max"),
        ("thresholds: {kl: {max: 1e-3}}", 4, "write the number as 0.001"),
        ("thresholds: {kl: {max: x}}", 4, "`thresholds.kl.max` is 'x', allowed: a number"),
        ("thresholds: {kl: {max: 1}}\n---\n" + HEAD + "thresholds: {l0: {max: 1}}", 6, "is taken"),
        ("thresholds: {kl: {max: 1}, <<: {l0: {max: 1}}}", 4, "merge keys"),
    ],
)
def test_a_bound_that_cannot_be_changed_alone_is_refused(
    text: str, line: int, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        change(text, ("kl", "0.1"))
    assert str(caught.value).startswith(f"s.yaml:{line}: ")
    assert message in str(caught.value)


def test_all_refusals_are_reported_at_once() -> None:
    text = "thresholds:\n  kl: &k {max: 0.3}\n  ce_increase: *k\n"
    with pytest.raises(SpecError) as caught:
        change(text, ("kl", "0.1"), ("ce_increase", "0.1"))
    assert [line[:9] for line in str(caught.value).splitlines()] == ["s.yaml:5:", "s.yaml:6:"]


def test_unknown_documents_and_values_that_are_no_numbers_are_refused() -> None:
    text = "thresholds:\n  kl: {max: 0.3}\n"
    with pytest.raises(SpecError, match="no document 'x'; allowed: h"):
        change(text, ("kl", "0.1"), document="x")
    with pytest.raises(ValueError, match="new value of kl max is NaN"):
        change(text, ("kl", "NaN"))
