"""Options of several sources add up, or contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from sae_guard.checkpoints.options import SaeOptions, merged
from sae_guard.errors import SetupError


def test_options_of_all_sources_add_up() -> None:
    assert merged() == SaeOptions()
    found = merged(
        ("a", SaeOptions(k=3, pre_bias=False)), ("b", SaeOptions()), ("c", SaeOptions(k=3, scale=2))
    )
    assert found == SaeOptions(k=3, pre_bias=False, scale=2.0)


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
