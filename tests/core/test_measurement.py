"""`Measurement` refuses malformed tables; excerpts survive as plain values."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core import measurement, metrics
from sae_guard.core.measurement import Around, Excerpts, Measurement
from sae_guard.core.metrics import ALL_COLUMNS, COLUMNS, METRICS, Column, Metric
from sae_guard.errors import UndefinedMetricError
from sae_guard.testing import measurements
from tests.helpers.recorded import ordinary


def rows(m: Measurement, indices: list[int]) -> Measurement:
    """Return some rows of the measurement, as a worker would have measured them."""
    index = np.array(indices, dtype=np.int64)
    return dataclasses.replace(
        m,
        sequences=m.sequences[index],
        sums={name: column[index] for name, column in m.sums.items()},
        firings=m.firings if 0 in indices else np.zeros_like(m.firings),
    )


@given(measurements(min_sequences=2), st.sampled_from(sorted(METRICS)))
def test_a_missing_row_makes_every_metric_undefined(m: Measurement, name: str) -> None:
    partial = rows(m, list(range(m.n_sequences - 1)))
    with pytest.raises(UndefinedMetricError, match=r"of the \d+ sequences were measured"):
        partial[name]


@given(measurements())
def test_a_wrong_number_of_sources_is_refused(m: Measurement) -> None:
    with pytest.raises(ValueError, match=f"{m.n_sequences + 1} sources of {m.n_sequences} seq"):
        dataclasses.replace(m, sources=("a",) * (m.n_sequences + 1))


@given(measurements(min_sequences=2))
def test_a_repeated_sequence_is_refused(m: Measurement) -> None:
    with pytest.raises(ValueError, match="not strictly ascending"):
        dataclasses.replace(m, sequences=np.zeros_like(m.sequences))


places = st.tuples(st.integers(0, 99), st.integers(0, 99))
excerpts = st.builds(
    Excerpts,
    st.dictionaries(places, st.builds(Around, st.text(), st.text(), st.text()), max_size=4),
    st.dictionaries(st.integers(0, 99), st.text(), max_size=4),
)


@given(excerpts)
def test_excerpts_survive_as_plain_values(texts: Excerpts) -> None:
    assert Excerpts.from_plain(json.loads(json.dumps(texts.plain))) == texts


def test_a_column_newer_than_a_record_is_undefined_with_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later = {"abs_error": Column("", "sum of absolute errors", since="9.1")}
    for module in (metrics, measurement):
        monkeypatch.setattr(module, "COLUMNS", {**COLUMNS, **later})
        monkeypatch.setattr(module, "ALL_COLUMNS", {**ALL_COLUMNS, **later}, raising=False)
    metric = Metric("abs_error", "", "lower", "E_tokens Σ|x−x̂|", {"abs_error": 1})
    monkeypatch.setattr(metrics, "METRICS", {**METRICS, "abs_error": metric})
    old = ordinary()
    assert old["kl"] > 0
    with pytest.raises(UndefinedMetricError, match=r"abs_error was not measured: .* since 9\.1"):
        old.estimate("abs_error")
    new = dataclasses.replace(old, sums={**old.sums, "abs_error": old.sums["l1"]})
    assert new["abs_error"] == old["l1"]
    with pytest.raises(ValueError, match="columns are"):
        dataclasses.replace(
            old, sums={name: sums for name, sums in old.sums.items() if name != "kl"}
        )
