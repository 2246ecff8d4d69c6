"""Measurement → Parquet → the same, bit for bit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given

from sae_guard.core.measurement import Measurement
from sae_guard.history.parquet import (
    LATENTS,
    SEQUENCES,
    TOKENS,
    measurement_from_parquet,
    provenance_json,
    to_parquet,
    tokens_from_parquet,
)
from sae_guard.history.record import HistoryError
from tests.helpers.recorded import any_measurements, bits, ordinary, token_bits, tokenwise


@given(any_measurements())
def test_any_measurement_comes_back_bit_for_bit(measurement: Measurement) -> None:
    provenance, files = provenance_json(measurement.provenance), to_parquet(measurement)
    assert bits(measurement_from_parquet(files, provenance, "there")) == bits(measurement)
    assert (TOKENS in files) == (measurement.tokens is not None)
    if measurement.tokens is not None:
        found = tokens_from_parquet(files[TOKENS], "there")
        assert token_bits(found) == token_bits(measurement.token_kl)


def test_pandas_reads_the_rows() -> None:
    measurement = ordinary()
    files = to_parquet(measurement)
    table = pd.read_parquet(io.BytesIO(files[SEQUENCES]))
    assert table["kl"].sum() / table["n_tokens"].sum() == pytest.approx(measurement["kl"])
    assert pd.read_parquet(io.BytesIO(files[LATENTS]))["firings"].tolist() == [0, 1, 2, 3, 4]


def test_tokens_are_those_that_are_scored_in_the_order_of_the_corpus() -> None:
    measurement = tokenwise(ordinary())
    assert measurement.tokens is not None
    measurement.tokens.scored[:, 0] = False
    table = pd.read_parquet(io.BytesIO(to_parquet(measurement)[TOKENS]))
    assert list(table["position"]) == [*range(1, 100)] * 8
    assert list(table["sequence"]) == [row for row in range(8) for _ in range(99)]
    kl = measurement.tokens.columns["kl"]
    assert [kl[place] for place in zip(table["sequence"], table["position"], strict=True)] == list(
        table["kl"]
    )


@pytest.mark.parametrize("name", [SEQUENCES, LATENTS])
@pytest.mark.parametrize("keep", [0, 100, -10])
def test_half_a_file_is_refused(name: str, keep: int) -> None:
    measurement = ordinary()
    files = to_parquet(measurement)
    half = {**files, name: files[name][:keep]}
    with pytest.raises(HistoryError, match="there: not the rows of a measurement"):
        measurement_from_parquet(half, provenance_json(measurement.provenance), "there")


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_half_the_tokens_are_refused(keep: int) -> None:
    data = to_parquet(tokenwise(ordinary()))[TOKENS]
    with pytest.raises(HistoryError, match="there: not the tokens of a measurement"):
        tokens_from_parquet(data[:keep], "there")
    with pytest.raises(HistoryError, match="there: not the tokens of a measurement: 'position'"):
        tokens_from_parquet(to_parquet(ordinary())[SEQUENCES], "there")


_COUNTING = """
import os, sys
from pathlib import Path
import pyarrow.parquet
from sae_guard.history.parquet import LATENTS, SEQUENCES
from sae_guard.history.parquet import measurement_from_parquet, tokens_from_parquet
from tests.helpers.recorded import ordinary
files = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
before = len(os.listdir("/proc/self/task"))
measurement_from_parquet(files, vars(ordinary().provenance), "there")
tokens_from_parquet(files["tokens.parquet"], "there")
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_reading_starts_no_threads_that_could_outlive_python(tmp_path: Path) -> None:
    # One that let go of our bytes while Python ended would abort it: exit code 134, not 0.
    for name, data in to_parquet(tokenwise(ordinary())).items():
        (tmp_path / name).write_bytes(data)
    found = subprocess.run(
        [sys.executable, "-c", _COUNTING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found.stdout == "0\n"
