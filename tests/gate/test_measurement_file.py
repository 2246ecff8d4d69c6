"""Measurements are saved and loaded bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_guard.core.measurement import Around, Excerpts, Measurement
from sae_guard.core.metrics import COLUMNS
from sae_guard.errors import InfrastructureError, UndefinedMetricError
from sae_guard.gate.measurement_file import load, save
from sae_guard.testing import measurements
from tests.helpers.changed_measurements import changed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements())
def test_saving_and_loading_is_the_identity_bit_for_bit(tmp_path: Path, m: Measurement) -> None:
    m = changed(m, kl=np.where(np.arange(m.n_sequences) == 0, np.nan, m.sums["kl"]))
    save(m, tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert again.provenance == m.provenance
    assert again.sequences.tobytes() == m.sequences.tobytes()
    assert again.firings.tobytes() == m.firings.tobytes()
    assert {k: v.tobytes() for k, v in again.sums.items()} == {
        k: v.tobytes() for k, v in m.sums.items()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements(min_sequences=2))
def test_optional_columns_may_be_absent(tmp_path: Path, m: Measurement) -> None:
    bare = dataclasses.replace(m, sums={name: m.sums[name] for name in COLUMNS})
    save(bare, tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").sums.keys() == set(COLUMNS)
    assert bare["kl"] == m["kl"]
    for name in ("kl_random_error", "kl_vs_random_error"):
        with pytest.raises(UndefinedMetricError, match=f"{name} was not measured"):
            bare[name]
    for name in COLUMNS:
        with pytest.raises(ValueError, match="columns are"):
            dataclasses.replace(m, sums={k: v for k, v in m.sums.items() if k != name})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurements(), st.data())
def test_sources_and_texts_are_saved(tmp_path: Path, m: Measurement, data: st.DataObject) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    around = st.builds(Around, texts, texts, texts)
    places = st.tuples(st.integers(0, 9), st.integers(0, 9))
    m = dataclasses.replace(
        m,
        sources=tuple(data.draw(texts) for _ in range(m.n_sequences)),
        excerpts=Excerpts(
            data.draw(st.dictionaries(places, around, max_size=3)),
            data.draw(st.dictionaries(st.integers(0, 9), texts, max_size=3)),
        ),
    )
    save(m, tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert (again.sources, again.excerpts) == (m.sources, m.excerpts)


@pytest.mark.parametrize("schema", [2, 4])
def test_another_schema_is_an_error_with_its_number(tmp_path: Path, schema: int) -> None:
    np.savez(tmp_path / "m.npz", schema=np.array(schema))
    with pytest.raises(InfrastructureError, match=rf"schema {schema}\b.* 3$"):
        load(tmp_path / "m.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_an_unreadable_measurement_is_an_infrastructure_error(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(InfrastructureError, match=r"m\.npz"):
        load(tmp_path / "m.npz")
