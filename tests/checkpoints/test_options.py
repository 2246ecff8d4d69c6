"""Options of several sources add up, or contradict each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sae_guard.checkpoints
from sae_guard.checkpoints.options import SaeOptions, merged, parse
from sae_guard.errors import SetupError


def test_options_of_all_sources_add_up() -> None:
    assert merged() == SaeOptions()
    options = merged(
        ("a", SaeOptions(k=3, pre_bias=False)), ("b", SaeOptions()), ("c", SaeOptions(k=3, scale=2))
    )
    assert options == SaeOptions(k=3, pre_bias=False, scale=2.0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"k": 3}, {"k": 4}, "k is 3 by the spec and 4 by the command line"),
        ({"pre_bias": True}, {"pre_bias": False}, "pre_bias is True by the spec and False by the"),
        ({"scale": 2.0}, {"scale": "folded"}, "scale is 2.0 by the spec and 'folded' by the"),
        ({"normalize": "none"}, {"normalize": "layer_norm"}, "normalize is 'none' by the spec and"),
    ],
)
def test_options_that_contradict_each_other(
    first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    sources = ("the spec", SaeOptions(**first)), ("a list", SaeOptions())
    with pytest.raises(SetupError) as caught:
        merged(*sources, ("the command line", SaeOptions(**second)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k 0; allowed: a whole number from 1 on"),
        ({"scale": -1.0}, "scale -1.0; allowed: a number above 0, folded, stored"),
        ({"architecture": "relu"}, "architecture 'relu'; allowed: standard, tanh_relu, topk, "),
    ],
)
def test_an_option_with_another_value_is_named_by_its_key(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SetupError) as caught:
        parse(values)
    assert str(caught.value).startswith(message)
    assert caught.value.options == tuple(values)


def test_an_unknown_key_is_no_option() -> None:
    with pytest.raises(SetupError, match=r"kk 3; .*allowed: architecture, k, ") as caught:
        parse({"kk": 3})
    assert caught.value.options == ()


def load_errors() -> Iterator[tuple[str, str, set[str]]]:
    """Yield place, text and keywords of every `LoadError` in the package's source."""
    for path in sorted(Path(sae_guard.checkpoints.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "LoadError":
                texts = [n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)]
                keywords = {str(keyword.arg) for keyword in node.keywords}
                yield f"{path.name}:{node.lineno}", "".join(map(str, texts)), keywords


def test_errors_about_options_carry_them_and_leave_it_to_shells_to_spell_them() -> None:
    errors = [*load_errors()]
    about = [(at, k) for at, text, k in errors if "in the spec:" in text or "`sae` option" in text]
    assert len(about) > 8
    assert [place for place, keywords in about if "options" not in keywords] == []
    assert [place for place, text, _ in errors if "--" in text] == []
