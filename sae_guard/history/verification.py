"""Whether a record is consistent, and about this checkpoint and these tokens: what can be known
before anything is measured again. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.statistics import Estimate
from sae_guard.core.targets import Target, estimate
from sae_guard.errors import UndefinedMetricError
from sae_guard.history.record import MetricRow, Record, worst

_ROUNDING = 1e-9
"""Relative: of sums in float64."""


def inconsistencies(record: Record, rows: Measurement) -> Iterator[str]:
    """Where a record contradicts itself: its metrics have to follow from its own rows.

    Args:
        record: Of formulas that are those of this version, see `other_formulas`.
        rows: What is kept beside it.
    """
    told = rows.provenance
    pairs: list[tuple[str, Any, Any]] = [
        ("n_sequences", record.n_sequences, rows.n_sequences),
        ("n_tokens", record.n_tokens, float(rows.sums["n_tokens"].sum())),
        ("n_sequences of the token set", rows.n_whole, rows.n_sequences),
        ("hook", record.hook, told.hook),
        ("hook_out", record.hook_out, told.hook_out),
        ("metrics", sorted(record.metrics), sorted(told.formula_versions)),
        ("verdict", record.verdict, _worst(record)),
    ]
    for name, said, is_ in pairs:
        if said != is_:
            yield f"{name} is {said} in record.json, and {_plain(is_)} by what is beside it"
    for name, row in record.metrics.items():
        found, _ = estimated(rows, Target(name))
        if row.unit != METRICS[name].unit:
            yield f"{name}: its unit is {row.unit!r} in record.json, not {METRICS[name].unit!r}"
        for part, said, value in _parts(row, found):
            if not same(said, value):
                yield f"{name}: {part} is {said} in record.json, and {value} by its rows"


def other_formulas(record: Record) -> Iterator[str]:
    """Metrics that this version computes by another formula, or not at all."""
    versions: Mapping[str, Any] = record.provenance.get("formula_versions") or {}
    for name, row in (*record.metrics.items(), *record.views.items()):
        # Of a target, the metric that it is of.
        metric = name if name in record.metrics else name.partition("@")[0].partition(".")[0]
        now = METRICS[metric].version if metric in METRICS else None
        said = {row.formula_version, versions.get(metric)}
        if said != {now}:
            yield f"{name}: {_versions(said)} in the record, {now or 'none'} in this sae_guard"


def other_files(record: Record, files: Mapping[str, str]) -> Iterator[str]:
    """Files of a checkpoint whose hashes are not those of the record.

    Args:
        record: Of a checkpoint.
        files: Name → sha256. A file may be called otherwise.
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


def other_parts(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Where two identities, of an SAE or of a token set, say otherwise; both as JSON has them.

    A later version may say more: what only one of them has is passed over.
    """
    for key in sorted(recorded.keys() & found.keys() - {"path", "files", "source"}):
        if recorded[key] != found[key]:
            yield f"{key}: {_short(recorded[key])} in the record, {_short(found[key])} now"


def estimated(measurement: Measurement, target: Target) -> tuple[Estimate | None, str]:
    """What the target shows, or why it is undefined."""
    try:
        found = estimate(measurement, target)
    except UndefinedMetricError as error:
        return None, str(error)
    if not math.isfinite(found.value):
        return None, f"it is {found.value}"
    return found, ""


def _parts(row: MetricRow, found: Estimate | None) -> list[tuple[str, float | None, float | None]]:
    """As a record has them: what JSON cannot say is absent."""
    names = ("value", "low", "high", "confidence")
    return [(part, getattr(row, part), _said(getattr(found, part, None))) for part in names]


def _said(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def same(one: float | None, other: float | None) -> bool:
    """But for the rounding of float64."""
    scale = max(abs(one or 0.0), abs(other or 0.0), 1e-3)
    return near(one, other, _ROUNDING * scale)


def near(one: float | None, other: float | None, allowed: float) -> bool:
    if one is None or other is None:
        return one is None and other is None
    return abs(one - other) <= allowed


def _worst(record: Record) -> str:
    rows = [(row.verdict, row.on_undecided) for row in record.thresholds]
    rows += [(record.pareto.verdict, "fail")] if record.pareto else []
    return worst(rows) if rows else "none"


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


def _versions(said: set[Any]) -> str:
    return " and ".join(sorted(str(version or "none") for version in said))


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
