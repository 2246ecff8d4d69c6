"""Measurement → Parquet → the same, bit for bit."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from hypothesis import given

from sae_guard.history.record import HistoryError
from sae_guard.history.rows import LATENTS, SEQUENCES, of_parquet, plain, to_parquet
from sae_guard.measurement import Measurement
from tests.recorded import any_measurements, bits, ordinary


@given(any_measurements())
def test_any_measurement_comes_back_bit_for_bit(measurement: Measurement) -> None:
    provenance = plain(measurement.provenance)
    assert bits(of_parquet(to_parquet(measurement), provenance, "there")) == bits(measurement)


def test_pandas_reads_the_rows() -> None:
    measurement = ordinary()
    files = to_parquet(measurement)
    table = pd.read_parquet(io.BytesIO(files[SEQUENCES]))
    assert table["kl"].sum() / table["n_tokens"].sum() == pytest.approx(measurement["kl"])
    assert pd.read_parquet(io.BytesIO(files[LATENTS]))["firings"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", [SEQUENCES, LATENTS])
@pytest.mark.parametrize("keep", [0, 100, -10])
def test_half_a_file_is_refused(name: str, keep: int) -> None:
    measurement = ordinary()
    files = to_parquet(measurement)
    half = {**files, name: files[name][:keep]}
    with pytest.raises(HistoryError, match="there: not the rows of a measurement"):
        of_parquet(half, plain(measurement.provenance), "there")
