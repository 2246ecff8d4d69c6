"""Save a measurement as one file, and load it, bit for bit."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import TOKEN_COLUMNS, Excerpts, Measurement, Provenance, TokenTable
from sae_guard.core.metrics import COLUMNS, ON_REQUEST
from sae_guard.errors import InfrastructureError
from sae_guard.files import write_whole

SCHEMA_VERSION = 3


def save(measurement: Measurement, path: Path) -> None:
    """Write a measurement as one ``.npz`` file, atomically and bit for bit."""
    arrays = {
        "schema": np.array(SCHEMA_VERSION),
        "provenance": np.array(json.dumps(asdict(measurement.provenance), allow_nan=False)),
        "sequences": measurement.sequences,
        "firings": measurement.firings,
        "sources": np.array(json.dumps(measurement.sources)),
        "excerpts": np.array(json.dumps(measurement.excerpts.plain)),
        **{f"sum.{name}": column for name, column in measurement.sums.items()},
        **_token_arrays(measurement.tokens),
    }
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def load(path: Path) -> Measurement:
    """Read a file that `save` wrote.

    Raises:
        InfrastructureError: The file is unreadable, or has another schema than this version reads.
    """
    try:
        # numpy does not close a file that it opened and cannot read; here `with` closes it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            schema = int(stored["schema"])
            if schema != SCHEMA_VERSION:
                raise InfrastructureError(
                    f"{path}: measurement schema {schema}; this version reads {SCHEMA_VERSION}"
                )
            return Measurement(
                stored["sequences"],
                _stored_columns(stored, "sum", COLUMNS),
                stored["firings"],
                Provenance(**json.loads(str(stored["provenance"]))),
                _stored_tokens(stored),
                tuple(json.loads(str(stored["sources"]))),
                Excerpts.from_plain(json.loads(str(stored["excerpts"]))),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InfrastructureError(f"{path} is not a readable measurement: {error}") from error


def _token_arrays(tokens: TokenTable | None) -> dict[str, NDArray[Any]]:
    if tokens is None:
        return {}
    columns = {f"token.{name}": column for name, column in tokens.columns.items()}
    return {"scored": tokens.scored, **columns}


def _stored_tokens(stored: Mapping[str, NDArray[Any]]) -> TokenTable | None:
    if "scored" not in stored:
        return None
    return TokenTable(stored["scored"], _stored_columns(stored, "token", TOKEN_COLUMNS))


def _stored_columns(
    stored: Mapping[str, NDArray[Any]], kind: str, names: Iterable[str]
) -> dict[str, NDArray[Any]]:
    optional = [name for name in ON_REQUEST if f"{kind}.{name}" in stored]
    return {name: stored[f"{kind}.{name}"] for name in (*names, *optional)}
