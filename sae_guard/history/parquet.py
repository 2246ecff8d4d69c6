"""Write the rows of a measurement as Parquet, which pandas, polars and DuckDB read, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from sae_guard.core.measurement import Excerpts, Measurement, Provenance, TokenKL
from sae_guard.history.record import HistoryError

SEQUENCES, LATENTS, TOKENS = "sequences.parquet", "latents.parquet", "tokens.parquet"
"""Names of the files. They have a row per sequence (index, source, sums), a row per latent (number
of firings), and, if KL of single tokens was measured, a row per scored token (position, KL)."""

_METADATA = b"sae_guard"
"""Key of the JSON in the schema's metadata: what does not fit into columns."""
_NOT_SUMS = {"sequence", "source"}
"""Columns of the table of sequences that are no sums."""


def to_parquet(measurement: Measurement) -> dict[str, bytes]:
    """Map the name of each file to its content.

    Of the values of single tokens, only KL is written.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {"sequence": pa.array(measurement.sequences)}
    if measurement.sources:
        texts = [as_utf8(source) for source in measurement.sources]
        columns["source"] = pa.array(texts, pa.string())
    columns |= {name: pa.array(column) for name, column in measurement.sums.items()}
    metadata: dict[str, Any] = {"excerpts": measurement.excerpts.plain}
    # JSON can escape what the column, which is UTF-8, cannot hold.
    if any(as_utf8(source) != source for source in measurement.sources):
        metadata["sources"] = list(measurement.sources)
    latents = {
        "latent": pa.array(np.arange(len(measurement.firings))),
        "firings": pa.array(measurement.firings),
    }
    files = {
        SEQUENCES: _table_bytes(pa.table(columns), json.dumps(metadata)),
        LATENTS: _table_bytes(pa.table(latents), "{}"),
    }
    tokens = measurement.token_kl
    return files if tokens is None else {**files, TOKENS: _token_bytes(tokens)}


def measurement_from_parquet(
    files: Mapping[str, bytes], provenance: Mapping[str, Any], path: str
) -> Measurement:
    """Read the measurement that `to_parquet` wrote, without the values of single tokens.

    `tokens_from_parquet` reads these.

    Args:
        files: Name → content of the files, as written.
        provenance: Provenance of the measurement, as JSON.
        path: Path of the folder, for messages.

    Raises:
        HistoryError: A file is not such a table.
    """
    try:
        table, metadata = _read(files[SEQUENCES])
        sums = {name: values for name, values in table.items() if name not in _NOT_SUMS}
        return Measurement(
            table["sequence"],
            sums,
            _read(files[LATENTS])[0]["firings"],
            Provenance(**provenance),
            sources=tuple(metadata.get("sources", table.get("source", ()))),
            excerpts=Excerpts.from_plain(metadata["excerpts"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are all of these
        raise HistoryError(f"{path}: not the rows of a measurement: {error}") from error


def tokens_from_parquet(data: bytes, path: str) -> TokenKL:
    """Read the KL of single tokens that `to_parquet` wrote, bit for bit.

    Args:
        data: Content of the file.
        path: Path of the folder, for messages.

    Raises:
        HistoryError: It is not such a table.
    """
    try:
        table, _ = _read(data)
        return TokenKL(table["sequence"], table["position"], table["kl"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HistoryError(f"{path}: not the tokens of a measurement: {error}") from error


def as_utf8(source: str) -> str:
    """Return the source with bytes that are not UTF-8, which paths may hold, as escapes."""
    return source.encode(errors="backslashreplace").decode()


def _token_bytes(tokens: TokenKL) -> bytes:
    import pyarrow as pa

    columns = {
        "sequence": pa.array(tokens.sequences),
        "position": pa.array(tokens.positions),
        "kl": pa.array(tokens.kl),
    }
    # Git keeps every record for ever, so size counts. With these encodings positions take almost no
    # space, and a KL takes 3.4 of its 4 bytes.
    return _table_bytes(
        pa.table(columns),
        "{}",
        column_encoding={
            "sequence": "DELTA_BINARY_PACKED",
            "position": "DELTA_BINARY_PACKED",
            "kl": "BYTE_STREAM_SPLIT",
        },
    )


def _table_bytes(table: Any, metadata: str, **encodings: Any) -> bytes:
    # No dictionaries for floats: Arrow's take every NaN for the same one, and bits would be lost.
    dictionaries = ["source"] if "source" in table.column_names else False
    table = table.replace_schema_metadata({_METADATA: metadata})
    return file_bytes(table, use_dictionary=dictionaries, **encodings)


def file_bytes(table: Any, **options: Any) -> bytes:
    """Return the content of a Parquet file with a table of Arrow.

    Args:
        table: The table.
        options: Options of `pyarrow.parquet.write_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", **options)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a table, and the JSON in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A thread of Arrow may release our bytes after the interpreter has shut down, and abort it.
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    columns = {
        name: column.to_pylist() if name == "source" else column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return columns, json.loads(table.schema.metadata[_METADATA])


def provenance_json(provenance: Provenance) -> dict[str, Any]:
    """Return the provenance as plain JSON values: what reading its JSON gives.

    Raises:
        ValueError: It holds NaN or infinity, which JSON does not have.
    """
    values: dict[str, Any] = json.loads(json.dumps(asdict(provenance), allow_nan=False))
    return values
