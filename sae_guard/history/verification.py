"""Check a record before anything is measured again. No files here.

Is it consistent, is it about this checkpoint and these tokens, and does this version compute its
metrics by the same formulas?
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.statistics import Estimate
from sae_guard.core.targets import Target, estimate
from sae_guard.errors import UndefinedMetricError
from sae_guard.history.record import Record, finite, worst

_ROUNDING = 1e-9
"""Relative rounding of sums in float64."""


def inconsistencies(record: Record, rows: Measurement) -> Iterator[str]:
    """Yield each contradiction within a record; its metrics have to follow from its own rows.

    Args:
        record: A record whose formulas are those of this version (`other_formulas` yields nothing).
        rows: The recorded measurement, from the files beside the record.
    """
    provenance = rows.provenance
    pairs: list[tuple[str, Any, Any]] = [
        ("n_sequences", record.n_sequences, rows.n_sequences),
        ("n_tokens", record.n_tokens, float(rows.sums["n_tokens"].sum())),
        ("n_sequences of the token set", rows.n_whole, rows.n_sequences),
        ("hook", record.hook, provenance.hook),
        ("hook_out", record.hook_out, provenance.hook_out),
        ("metrics", sorted(record.metrics), sorted(provenance.formula_versions)),
        ("verdict", record.verdict, _worst_verdict(record)),
    ]
    for name, in_record, by_files in pairs:
        if in_record != by_files:
            value = _without_point(by_files)
            yield f"{name} is {in_record} in record.json, and {value} by what is beside it"
    for name, row in record.metrics.items():
        by_rows, _ = estimate_or_reason(rows, Target(name))
        if row.unit != METRICS[name].unit:
            yield f"{name}: its unit is {row.unit!r} in record.json, not {METRICS[name].unit!r}"
        for part in ("value", "low", "high", "confidence"):
            recorded, value = getattr(row, part), finite(getattr(by_rows, part, None))
            if not is_same(recorded, value):
                yield f"{name}: {part} is {recorded} in record.json, and {value} by its rows"


def other_formulas(record: Record) -> Iterator[str]:
    """Yield each metric of a record that this version computes by another formula, or not at all.

    The version of a formula is in the record twice, in the metric's row and in the provenance.
    """
    versions: Mapping[str, Any] = record.provenance.get("formula_versions") or {}
    for name, row in (*record.metrics.items(), *record.views.items()):
        # `kl.p99@position=0..8` is a target of the metric `kl`.
        metric = name if name in record.metrics else name.partition("@")[0].partition(".")[0]
        current = METRICS[metric].version if metric in METRICS else None
        recorded = {row.formula_version, versions.get(metric)}
        if recorded != {current}:
            listed = " and ".join(sorted(str(version or "none") for version in recorded))
            yield f"{name}: {listed} in the record, {current or 'none'} in this sae_guard"


def other_files(record: Record, files: Mapping[str, str]) -> Iterator[str]:
    """Yield each file of a checkpoint whose hash is not that of the record.

    Args:
        record: Record of a checkpoint.
        files: Name → sha256 of the checkpoint's files. Files with other names but the same hashes
            are the same checkpoint.
    """
    recorded: Mapping[str, str] = record.provenance["checkpoint"]["files"]
    if files and sorted(files.values()) == sorted(recorded.values()):
        return
    for name in sorted({*files, *recorded}):
        was, now = recorded.get(name), files.get(name)
        if was != now:
            yield f"{name}: sha256 {_short(was)} in the record, {_short(now)} in the checkpoint"
    if not files:
        yield "the checkpoint has no files"


def other_parts(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """Yield each key in which two identities differ, of SAEs or of token sets, as JSON.

    A later version may have more keys: those that only one of the two has are ignored.
    """
    for key in sorted(recorded.keys() & current.keys() - {"path", "files", "source"}):
        if recorded[key] != current[key]:
            yield f"{key}: {_short(recorded[key])} in the record, {_short(current[key])} now"


def estimate_or_reason(measurement: Measurement, target: Target) -> tuple[Estimate | None, str]:
    """Return the estimate of a target, or None and the reason why it is undefined."""
    try:
        result = estimate(measurement, target)
    except UndefinedMetricError as error:
        return None, str(error)
    if not math.isfinite(result.value):
        return None, f"it is {result.value}"
    return result, ""


def is_same(one: float | None, other: float | None) -> bool:
    """Return whether two numbers are equal up to a relative 1e-9, or are both None."""
    scale = max(abs(one or 0.0), abs(other or 0.0), 1e-3)
    return is_near(one, other, _ROUNDING * scale)


def is_near(one: float | None, other: float | None, allowed: float) -> bool:
    """Return whether two numbers differ by at most ``allowed``, or are both None."""
    if one is None or other is None:
        return one is None and other is None
    return abs(one - other) <= allowed


def _worst_verdict(record: Record) -> str:
    verdicts = [(row.verdict, row.on_undecided) for row in record.thresholds]
    verdicts += [(record.pareto.verdict, "fail")] if record.pareto else []
    return worst(verdicts) if verdicts else "none"


def _without_point(value: Any) -> Any:
    """Return a float that counts something as an integer, so that it prints as one."""
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


def _short(value: Any) -> str:
    """Return the value as text; of a hash, the first 12 digits."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
