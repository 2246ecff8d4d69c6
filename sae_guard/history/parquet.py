"""The rows of a measurement as Parquet, bit for bit: what pandas, polars and DuckDB read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from sae_guard.core.measurement import Excerpts, Measurement, Provenance, TokenKL
from sae_guard.history.record import HistoryError

SEQUENCES, LATENTS, TOKENS = "sequences.parquet", "latents.parquet", "tokens.parquet"
"""A row per sequence: its index, its source and its sums; a row per latent: how often it fired; and
a row per scored token, where they were kept: its place and its KL."""

_METADATA = b"sae_guard"
_NO_SUMS = {"sequence", "source"}


def to_parquet(measurement: Measurement) -> dict[str, bytes]:
    """File name → content. Of the values of single tokens, KL is kept."""
    import pyarrow as pa

    columns: dict[str, Any] = {"sequence": pa.array(measurement.sequences)}
    if measurement.sources:
        shown = [_shown(source) for source in measurement.sources]
        columns["source"] = pa.array(shown, pa.string())
    columns |= {name: pa.array(column) for name, column in measurement.sums.items()}
    beside: dict[str, Any] = {"excerpts": measurement.excerpts.plain}
    if any(_shown(source) != source for source in measurement.sources):
        beside["sources"] = list(measurement.sources)
    latents = {
        "latent": pa.array(np.arange(len(measurement.firings))),
        "firings": pa.array(measurement.firings),
    }
    files = {
        SEQUENCES: _written(pa.table(columns), json.dumps(beside)),
        LATENTS: _written(pa.table(latents), "{}"),
    }
    tokens = measurement.token_kl
    return files if tokens is None else {**files, TOKENS: _tokens_written(tokens)}


def of_parquet(files: Mapping[str, bytes], provenance: Mapping[str, Any], path: str) -> Measurement:
    """The measurement that `to_parquet` wrote, without the values of single tokens
    (`tokens_of_parquet`).

    Args:
        files: As written.
        provenance: Of it, as JSON.
        path: Of the folder, for messages.

    Raises:
        HistoryError: A file is no such table.
    """
    try:
        table, beside = _read(files[SEQUENCES])
        sums = {name: values for name, values in table.items() if name not in _NO_SUMS}
        return Measurement(
            table["sequence"],
            sums,
            _read(files[LATENTS])[0]["firings"],
            Provenance(**provenance),
            sources=tuple(beside.get("sources", table.get("source", ()))),
            excerpts=Excerpts.of(beside["excerpts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are all of these
        raise HistoryError(f"{path}: not the rows of a measurement: {error}") from error


def tokens_of_parquet(data: bytes, path: str) -> TokenKL:
    """The tokens that `to_parquet` wrote, bit for bit.

    Raises:
        HistoryError: It is no such table; ``path`` is that of the folder.
    """
    try:
        table, _ = _read(data)
        return TokenKL(table["sequence"], table["position"], table["kl"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HistoryError(f"{path}: not the tokens of a measurement: {error}") from error


def _shown(source: str) -> str:
    """As UTF-8 can say it: paths may hold bytes that are none."""
    return source.encode(errors="backslashreplace").decode()


def _tokens_written(tokens: TokenKL) -> bytes:
    import pyarrow as pa

    columns = {
        "sequence": pa.array(tokens.sequences),
        "position": pa.array(tokens.positions),
        "kl": pa.array(tokens.kl),
    }
    # Git keeps each record for ever: places cost next to nothing so, and KL 3.4 bytes of its 4.
    return _written(
        pa.table(columns),
        "{}",
        column_encoding={
            "sequence": "DELTA_BINARY_PACKED",
            "position": "DELTA_BINARY_PACKED",
            "kl": "BYTE_STREAM_SPLIT",
        },
    )


def _written(table: Any, beside: str, **encoded: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # Arrow's dictionaries take all NaN for one: floats are written as they are.
    pq.write_table(
        table.replace_schema_metadata({_METADATA: beside}),
        sink,
        compression="zstd",
        use_dictionary=["source"] if "source" in table.column_names else False,
        **encoded,
    )
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Arrow's own threads may let go of our bytes while Python ends already, and abort it.
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    columns = {
        name: column.to_pylist() if name == "source" else column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return columns, json.loads(table.schema.metadata[_METADATA])


def plain(provenance: Provenance) -> dict[str, Any]:
    """As JSON reads it again.

    Raises:
        ValueError: It holds a number that JSON cannot say.
    """
    found: dict[str, Any] = json.loads(json.dumps(asdict(provenance), allow_nan=False))
    return found
