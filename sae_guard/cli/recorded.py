"""Records of a version → the outcomes that a run of pytest would have told of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_guard.cli.records import opened, read, without_collection
from sae_guard.cli.tighten_sources import of_path
from sae_guard.core.report import Outcome
from sae_guard.core.verdicts import judge
from sae_guard.history import History, Recorded, meant
from sae_guard.history.record_rows import MetricRow, ThresholdRow
from sae_guard.specs import Spec

_CONFIDENCE = 0.95
"""Of the intervals that a record holds."""


def of_version(
    reference: str, folder: str | None, path: Path, specs: Sequence[Spec]
) -> list[Outcome]:
    """What the records that are meant say of the thresholds that a spec file has now.

    Args:
        reference: A promoted label, or the id, hash or name of records.
        folder: Where the history is; None for the default.
        path: Of the spec file.
        specs: Its documents.

    Raises:
        SetupError: No record is meant, or none of the spec file.
        HistoryError: A record cannot be read.
    """
    with without_collection():
        kept = opened(folder)
        records, promotions, _ = read(kept)
        chosen = meant(records, promotions, reference)
    file = of_path({each.record.spec.file for each in chosen}, path, file=reference)
    own = [each for each in chosen if each.record.spec.file == file]
    by_name = {spec.name: spec for spec in specs}
    return [
        outcome
        for recorded, label in _labelled(own)
        for outcome in _outcomes(kept, recorded, label, by_name.get(recorded.record.spec.name))
    ]


def _labelled(records: Sequence[Recorded]) -> Iterator[tuple[Recorded, str]]:
    """Each with the label of its checkpoint, and its own hash where several have it."""
    labels = Counter((each.spec, each.record.checkpoint.label) for each in records)
    for each in records:
        label = each.record.checkpoint.label
        several = labels[each.spec, label] > 1
        yield each, f"{label} {each.short}" if several else label


def _outcomes(
    kept: History, recorded: Recorded, label: str, spec: Spec | None
) -> Iterator[Outcome]:
    """One for each threshold of which something is known.

    It is judged anew, as there may be thresholds that the record did not have; what takes the
    values of single tokens, which are not kept, is as the record has it. So are all, where the spec
    file has no such document any more. Thresholds on changes are of another version too.
    """
    record = recorded.record
    about: dict[str, Any] = {
        "spec": record.spec.file, "name": record.spec.name, "checkpoint": label,
        "provenance": json.dumps(record.provenance),
    }  # fmt: skip
    rows = {row.metric: row for row in record.thresholds} | record.views
    if spec is None:
        yield from (_as_it_was(name, row, about) for name, row in rows.items())
        return
    measurement = kept.measurement(recorded)
    for threshold in spec.thresholds:
        name = str(threshold.view)
        if threshold.change:
            continue
        verdict = judge(measurement, threshold)
        if verdict.status != "error":
            yield Outcome.of(verdict, **about)
        elif name in rows and rows[name].value is not None:
            yield _as_it_was(name, rows[name], about)


def _as_it_was(name: str, row: ThresholdRow | MetricRow, about: Mapping[str, Any]) -> Outcome:
    """Of how many sequences is not known: as many as have such tokens. Whether it was kept is found
    out anew by whoever asks."""
    return Outcome(
        **about, metric=name, verdict="pass", value=row.value, low=row.low, high=row.high,
        confidence=_CONFIDENCE,
    )  # fmt: skip
