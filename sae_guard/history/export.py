"""Export records, or other rows, as one flat table: CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sae_guard.core.metrics import METRICS
from sae_guard.errors import SetupError
from sae_guard.history.parquet import as_utf8, file_bytes
from sae_guard.history.promotions import promoted_labels
from sae_guard.history.record import Promotion, Recorded

Row = dict[str, Any]

_NUMBERS = {"value", "low", "high", "confidence", "min", "max", "headroom"}
"""Numeric columns of tables with one metric per row."""


def flat(records: Sequence[Recorded], promotions: Sequence[Promotion]) -> list[Row]:
    """Return a row per record, all with the same keys; ``kl``, ``kl_low``, ``kl_high`` per metric.

    Args:
        records: Records in the order of the rows.
        promotions: All promotions of the history, in the order of time.
    """
    labels = promoted_labels(promotions)
    return [_row(recorded, labels.get(recorded.id, ())) for recorded in records]


def to_bytes(rows: Sequence[Row], kind: str) -> bytes:
    """Return the content of a file with the rows.

    Args:
        rows: Rows with the same keys.
        kind: Ending of the file's name, a key of `KINDS`.

    Raises:
        SetupError: There is no such kind of file.
    """
    if kind not in KINDS:
        raise SetupError(f"cannot export {kind or 'a file without an ending'!r}; allowed: "
                         + ", ".join(KINDS))  # fmt: skip
    return KINDS[kind](rows)


def _row(recorded: Recorded, labels: Sequence[str]) -> Row:
    record, provenance = recorded.record, recorded.record.provenance
    row: Row = {
        "id": recorded.id,
        "name": record.name,
        "created": record.created.isoformat(),
        "promoted_as": ", ".join(labels),
        "verdict": record.verdict,
        "spec": recorded.spec,
        "spec_sha256": record.spec.sha256,
        "hook": record.hook,
        "hook_out": record.hook_out,
        "checkpoint": record.checkpoint.label,
        "reference": record.checkpoint.reference,
        "model": provenance["model"].get("name"),
        "tokens_sha256": provenance["corpus"].get("sha256"),
        "n_sequences": record.n_sequences,
        "n_tokens": record.n_tokens,
        "device": provenance["device"],
        "git_commit": record.git.commit if record.git else None,
        "by": record.by,
        "run": record.run,
    }
    # All metrics, also those that this record lacks: the columns of a table are the same.
    for name in METRICS:
        metric = record.metrics.get(name)
        row[name] = metric.value if metric else None
        row[f"{name}_low"] = metric.low if metric else None
        row[f"{name}_high"] = metric.high if metric else None
    return row


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


def _json(rows: Sequence[Row]) -> bytes:
    text = json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa

    def as_text(value: Any) -> Any:
        return as_utf8(value) if isinstance(value, str) else value

    columns = {
        name: pa.array([as_text(row[name]) for row in rows], _type(pa, name))
        for name in (rows[0] if rows else ())
    }
    return file_bytes(pa.table(columns))


def _type(pa: Any, column: str) -> Any:
    """Return the Arrow type of a column, which does not depend on the values in it."""
    if column in ("n_sequences", "n_tokens"):
        return pa.int64()
    metric = column.removesuffix("_low").removesuffix("_high")
    return pa.float64() if metric in METRICS or column in _NUMBERS else pa.string()


KINDS: Mapping[str, Callable[[Sequence[Row]], bytes]] = {
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}
"""Ending of a file's name → the function that writes such a file."""
