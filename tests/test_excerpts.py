"""Texts by their place: as plain values and back."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Around, Excerpts

places = st.tuples(st.integers(0, 99), st.integers(0, 99))
excerpts = st.builds(
    Excerpts,
    st.dictionaries(places, st.builds(Around, st.text(), st.text(), st.text()), max_size=4),
    st.dictionaries(st.integers(0, 99), st.text(), max_size=4),
)


@given(excerpts)
def test_plain_values_say_all_of_it(texts: Excerpts) -> None:
    assert Excerpts.of(json.loads(json.dumps(texts.plain))) == texts
