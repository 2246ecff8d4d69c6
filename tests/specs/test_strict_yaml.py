"""Values of a YAML file are what they look like, or an error with its line."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.specs.strict_yaml import YamlDocument, YamlError, read


def read_one(text: str) -> YamlDocument:
    (document,) = read(text.encode())
    return document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1.0e-3", 1e-3),
        (".5", 0.5),
        ("+3", 3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("", None),
        ("null", None),
        ("gpt2", "gpt2"),
        ("'1e-3'", "1e-3"),
        ('"off"', "off"),
        ("blocks.8.hook_resid_pre", "blocks.8.hook_resid_pre"),
        ("[1, a, 'b']", [1, "a", "b"]),
        ("{b: {c: 1}}", {"b": {"c": 1}}),
    ],
)
def test_plain_values_have_the_expected_value_and_type(text: str, value: object) -> None:
    result = read_one(f"a: {text}").value["a"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-3", "write the number as 0.001"),
        ("1E5", "write the number as 100000.0"),
        ("1.5e3", "write the number as 1500.0"),
        ("-.5", "write the number as -0.5"),
        ("1e-9", "write the number as 1.0e-09"),
        ("inf", "write the number as a finite decimal number"),
        ("nan", "is read as text"),
        ("off", "'off' is read as false"),
        ("on", "'on' is read as true"),
        ("yes", "'yes' is read as true"),
        ("NO", "'NO' is read as false"),
        ("010", "'010' is no plain decimal number"),
        ("0x1F", "'0x1F' is no plain decimal number"),
        ("0b11", "'0b11' is no plain decimal number"),
        ("1_000", "'1_000' is no plain decimal number"),
        ("1:30", "'1:30' is no plain decimal number"),
        ("1:30.5", "'1:30.5' is no finite decimal number"),
        (".inf", "'.inf' is no finite decimal number"),
        ("-.INF", "'-.INF' is no finite decimal number"),
        (".nan", "'.nan' is no finite decimal number"),
        ("1.0e+999", "'1.0e+999' is no finite decimal number"),
        ("2026-11-23", "is read as a date"),
        ("!!python/name:os.system x", "has the tag 'python/name:os.system'"),
        ("!secret [1]", "tag '!secret' is not supported"),
        ("&x [*x]", "an alias points at a value that contains it"),
        ("=", "has the tag 'value'"),
    ],
)
def test_values_that_are_not_what_they_look_like_are_errors(text: str, message: str) -> None:
    with pytest.raises(YamlError) as caught:
        read(f"b: 1\na: {text}\n".encode())
    assert message in caught.value.message
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "key 'a' appears twice, first on line 1"),
        ("a:\n  b: 1\n  'b': 2", 3, "key 'b' appears twice, first on line 2"),
        ("<<: {a: 1}", 1, "merge keys"),
        ("a: 1\non: 2", 2, "'on' is read as true"),
        ("1: 2", 1, "key '1' is read as 1"),
        ("[a]: 1", 1, "a key has to be text"),
        ("a: [1", 1, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("a: 1\nb: \x01", 2, "not YAML: character 1"),
        ("[" * 5000, 1, "nested too deeply"),
        ("a: " + "x" * 2**20, 1, "bytes; allowed: at most 1,048,576"),
    ],
)
def test_a_malformed_structure_is_an_error_with_its_line(
    text: str, line: int, message: str
) -> None:
    with pytest.raises(YamlError) as caught:
        read(text.encode())
    assert message in caught.value.message
    assert caught.value.line == line


def test_bytes_that_are_not_utf8_are_an_error_with_their_line() -> None:
    with pytest.raises(YamlError, match="not UTF-8") as caught:
        read(b"a: 1\nb: \xff\n")
    assert caught.value.line == 2


def test_an_alias_bomb_is_refused_before_it_is_expanded() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(YamlError, match="more than 10,000 values"):
        read("\n".join(levels).encode())


def test_an_alias_has_the_value_of_its_anchor() -> None:
    assert read_one("a: &x {b: 1}\nc: *x").value == {"a": {"b": 1}, "c": {"b": 1}}


def test_keys_items_and_documents_have_their_lines() -> None:
    first, second = read(b"# comment\na:\n  b: 1\n  c:\n    - x\n    - y\n---\n\na: 2\n")
    assert first.line_of(("a",)) == 2
    assert first.line_of(("a", "b")) == 3
    assert first.line_of(("a", "c", 1)) == 6
    assert first.line_of(("a", "absent", "below")) == 2
    assert second.line == 9


# PyYAML itself reads these line breaks back as spaces.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_dumped_values_are_read_back_equal_or_refused(value: dict[str, object]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    try:
        result = read_one(text).value
    except YamlError:
        return
    assert result == value
    assert "Infinity" not in json.dumps(result)


@given(st.integers(-999, 999), st.integers(-30, 30))
def test_the_advice_for_a_number_is_read_as_that_number(mantissa: int, exponent: int) -> None:
    without_point = f"{mantissa}e{exponent}"
    with pytest.raises(YamlError) as caught:
        read(f"a: {without_point}".encode())
    advice = caught.value.message.partition("write the number as ")[2].partition(",")[0]
    assert math.isclose(read_one(f"a: {advice}").value["a"], float(without_point))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        documents = read(data)
    except YamlError:
        return
    json.dumps([document.value for document in documents], allow_nan=False)
