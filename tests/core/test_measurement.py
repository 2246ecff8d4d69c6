"""The table of sums: one row for each sequence, texts by place."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.measurement import Around, Excerpts, Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.errors import UndefinedMetricError
from sae_guard.testing import measurements


def rows(m: Measurement, chosen: list[int]) -> Measurement:
    """Some rows of the measurement, as a worker would have measured them."""
    index = np.array(chosen, dtype=np.int64)
    return dataclasses.replace(
        m,
        sequences=m.sequences[index],
        sums={name: column[index] for name, column in m.sums.items()},
        firings=m.firings if 0 in chosen else np.zeros_like(m.firings),
    )


@given(measurements(min_sequences=2), st.sampled_from(sorted(METRICS)))
def test_a_missing_row_makes_every_metric_undefined(m: Measurement, name: str) -> None:
    partial = rows(m, list(range(m.n_sequences - 1)))
    with pytest.raises(UndefinedMetricError, match=r"of the \d+ sequences were measured"):
        partial[name]


@given(measurements())
def test_as_many_sources_as_rows(m: Measurement) -> None:
    with pytest.raises(ValueError, match=f"{m.n_sequences + 1} sources of {m.n_sequences} seq"):
        dataclasses.replace(m, sources=("a",) * (m.n_sequences + 1))


@given(measurements(min_sequences=2))
def test_a_sequence_has_one_row(m: Measurement) -> None:
    with pytest.raises(ValueError, match="not strictly ascending"):
        dataclasses.replace(m, sequences=np.zeros_like(m.sequences))


places = st.tuples(st.integers(0, 99), st.integers(0, 99))
excerpts = st.builds(
    Excerpts,
    st.dictionaries(places, st.builds(Around, st.text(), st.text(), st.text()), max_size=4),
    st.dictionaries(st.integers(0, 99), st.text(), max_size=4),
)


@given(excerpts)
def test_plain_values_say_all_of_it(texts: Excerpts) -> None:
    assert Excerpts.of(json.loads(json.dumps(texts.plain))) == texts
