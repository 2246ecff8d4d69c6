"""What was measured for the thresholds of a spec, or why it is not.

It comes from the report of a run, or from the records of a version.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sae_guard.cli.records import opened, read, without_collection
from sae_guard.core.measurement import Provenance
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseRef, CaseReport, MetricValue, RunReport
from sae_guard.core.statistics import Estimate, rescaled
from sae_guard.core.targets import Target, level
from sae_guard.core.thresholds import Threshold
from sae_guard.core.tightening import Measured
from sae_guard.core.verdicts import Verdict, judge
from sae_guard.errors import SetupError, allowed
from sae_guard.history import History, HistoryError, Recorded, find_records
from sae_guard.history.record import MetricRow, ThresholdRow
from sae_guard.specs import Spec

_CONFIDENCE = 0.95
"""Of the intervals that a record holds."""


def of_report(report: RunReport, path: Path, *, file: str) -> list[CaseReport]:
    """Take the cases of the spec file at ``path``, with what was judged; raises like `of_path`."""
    name = of_path({each.case.spec_file for each in report.cases}, path, file=file)
    return [replace(each, metrics=()) for each in report.cases if each.case.spec_file == name]


def of_path(names: Collection[str], path: Path, *, file: str) -> str:
    """Find which of the names is that of the spec file at ``path``.

    They are paths from the root folder of a run, which need not be the folder that we are in.

    Raises:
        SetupError: None is, or several could be.
    """
    known = sorted(names)
    own = [name for name in known if _ends_with(path.absolute(), name)]
    own = own or [name for name in known if _ends_with(path.resolve(), name)]
    if not own:
        raise SetupError(
            f"{file} has no verdict by {path}; it has those by {', '.join(known) or 'none'}"
        )
    if len(own) > 1:
        raise SetupError(f"{file} has specs that could be {path}: {', '.join(own)}")
    return own[0]


def _ends_with(path: Path, name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and path.parts[-len(parts) :] == parts


def of_checkpoints(
    reports: Sequence[CaseReport], checkpoints: Sequence[str], *, file: str
) -> list[CaseReport]:
    """Take the reports of these checkpoints, or of all; those of controls stay.

    Raises:
        SetupError: One of them has none.
    """
    names = {each.case.member for each in reports if not each.case.is_control}
    for name in checkpoints:
        if name not in names:
            raise SetupError(f"{file} has no checkpoint {name!r}; {allowed(name, names)}")
    return [
        each
        for each in reports
        if not checkpoints or each.case.member in checkpoints or each.case.is_control
    ]


def of_spec(
    reports: Sequence[CaseReport], spec: Spec, *, file: str
) -> dict[Target, list[Measured]]:
    """Collect what the reports say of the thresholds of one document of the spec file.

    Raises:
        SetupError: One of them has an error, an early estimate, or is of other tokens or another
            place than the spec now names; or a value is known of some checkpoints only.
    """
    own = [each for each in reports if each.case.document == spec.name]
    problems = [text for each in own for text in _problems(each, spec)]
    if problems:
        raise SetupError("\n".join(f"{file}: {text}" for text in dict.fromkeys(problems)))
    thresholds = {threshold.target: threshold for threshold in spec.thresholds}
    by_target: dict[Target, list[Measured]] = {}
    for report in own:
        for each in _values(report):
            if each.target in thresholds and each.estimate is not None:
                value = _measured(report.case.member, each.estimate, thresholds[each.target])
                by_target.setdefault(each.target, []).append(value)
    checkpoints = {each.checkpoint for measured in by_target.values() for each in measured}
    for target, measured in by_target.items():
        if missing := checkpoints - {each.checkpoint for each in measured}:
            raise SetupError(
                f"{file} has {spec.name}::{target} of {measured[0].checkpoint} and not of "
                f"{', '.join(sorted(missing))}; choose by --checkpoint"
            )
    return by_target


def _values(report: CaseReport) -> Sequence[Verdict | MetricValue]:
    """What is known of a checkpoint; a control says nothing of any."""
    return () if report.case.is_control else (*report.verdicts, *report.metrics)


def _problems(report: CaseReport, spec: Spec) -> Iterator[str]:
    """Say why a value is none, or not one of the spec's metric."""
    name = report.case.node_id
    for test, message in report.errors.items():
        yield f"{name(test)} is an error, so nothing is known: {message}"
    if report.case.is_control:
        for test in report.crossed:
            yield f"{name(test)} is {report.statuses[test]}: no number beside it holds"
        return
    for verdict in report.verdicts:
        yield from _value_problems(name(verdict.target), verdict)
    targets = [each.target for each in _values(report)]
    differences = list(_differences(report.provenance, targets, spec)) if targets else []
    if differences:
        listed = ", ".join(differences)
        yield f"{report.case} is of something else than the spec by now: {listed}"


def _value_problems(name: str, verdict: Verdict) -> Iterator[str]:
    if verdict.status == "error":
        return  # which was said
    if verdict.progress is not None:
        yield (
            f"{name} is early, by {verdict.progress.measured:,} of {verdict.progress.total:,} "
            "sequences: its value is not the metric; measure all of them"
        )
    elif verdict.estimate is None:
        yield f"{name} has no value"


def _differences(
    provenance: Provenance | None, targets: Sequence[Target], spec: Spec
) -> Iterator[str]:
    """List what was measured otherwise than the spec names it."""
    measured: Mapping[str, Any] = asdict(provenance) if provenance else {}
    model, name = _mapping(measured, "model"), spec.model.path_or_name(spec.file.parent)
    if isinstance(name, Path):  # which may be in another place on another machine
        model, name = {**model, "name": Path(str(model.get("name"))).name}, name.name
    hook_out = None if spec.hook_out == spec.hook else spec.hook_out
    pairs: list[tuple[str, Any, Any]] = [
        ("model", model.get("name"), name),
        ("model.processing", model.get("processing"), spec.model.processing),
        ("model.dtype", model.get("dtype"), spec.model.dtype),
        ("hook", measured.get("hook"), spec.hook),
        ("hook_out", measured.get("hook_out"), hook_out),
    ]
    source = _mapping(_mapping(measured, "corpus"), "source")
    data = spec.data.model_dump(mode="json", exclude_none=True)
    keys = sorted({*data, *source} - {"expect_clean_ce"})
    pairs += [(f"data.{key}", source.get(key), data.get(key)) for key in keys]
    versions = _mapping(measured, "formula_versions")
    for metric in dict.fromkeys(each.metric for each in targets if each.metric in METRICS):
        version = METRICS[metric].version
        pairs.append((f"version of the formula of {metric}", versions.get(metric), version))
    for key, was, now in pairs:
        if was != now:
            yield f"{key} was {_short(was)} and is {_short(now)}"


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _measured(checkpoint: str, estimate: Estimate, threshold: Threshold) -> Measured:
    low, high = _interval(estimate, threshold) or (None, None)
    return Measured(checkpoint, estimate.value, low, high)


def _interval(estimate: Estimate, threshold: Threshold) -> tuple[float, float] | None:
    """Give that of the threshold's confidence, as far as it follows from the one that is there."""
    if threshold.confidence is None or estimate.low is None or estimate.high is None:
        return None
    if estimate.n_sequences and level(threshold.target.statistic) is None:
        return rescaled(estimate, threshold.confidence)
    both = (estimate.low, estimate.high)
    return both if threshold.confidence <= estimate.confidence else None


def of_version(
    reference: str, folder: str | None, path: Path, specs: Sequence[Spec]
) -> list[CaseReport]:
    """Report what records say of the thresholds that a spec file has now.

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
        history = opened(folder)
        records, promotions, _ = read(history)
        chosen = find_records(records, promotions, reference)
    file = of_path({each.record.spec.file for each in chosen}, path, file=reference)
    own = [each for each in chosen if each.record.spec.file == file]
    by_name = {spec.name: spec for spec in specs}
    return [
        _of_record(history, recorded, label, by_name.get(recorded.record.spec.name))
        for recorded, label in _labelled(own)
    ]


def _labelled(records: Sequence[Recorded]) -> Iterator[tuple[Recorded, str]]:
    """Give each with the label of its checkpoint, and its own hash where several have it."""
    labels = Counter((each.spec, each.record.checkpoint.label) for each in records)
    for each in records:
        label = each.record.checkpoint.label
        several = labels[each.spec, label] > 1
        yield each, f"{label} {each.short}" if several else label


def _of_record(history: History, recorded: Recorded, label: str, spec: Spec | None) -> CaseReport:
    """Report each threshold of the spec of which something is known.

    It is judged anew, as there may be thresholds that the record did not have. What takes the
    values of single tokens, which are not kept, is as the record has it. So is all, where the spec
    file has no such document any more. Thresholds on changes are of another version too.
    """
    record = recorded.record
    rows = {row.metric: row for row in record.thresholds if not row.change} | record.views
    verdicts: list[Verdict] = []
    values: list[MetricValue] = []
    if spec is None:
        values = [_value(name, row) for name, row in rows.items()]
    else:
        measurement = history.measurement(recorded)
        for threshold in (each for each in spec.thresholds if not each.change):
            name, verdict = str(threshold.target), judge(measurement, threshold)
            if verdict.status != "error":
                verdicts.append(verdict)
            elif name in rows and rows[name].value is not None:
                values.append(_value(name, rows[name]))
    try:
        provenance = Provenance(**record.provenance)
    except TypeError as error:
        raise HistoryError(f"{recorded.path}: provenance: {error}") from None
    case = CaseRef(record.spec.file, record.spec.name, label)
    return CaseReport(case, provenance=provenance, verdicts=tuple(verdicts), metrics=tuple(values))


def _value(name: str, row: ThresholdRow | MetricRow) -> MetricValue:
    """Give the value as it was recorded; of how many sequences is not known of all of them."""
    if row.value is None:
        return MetricValue(Target.parse(name), undefined="the record has no value")
    estimate = Estimate(row.value, row.low, row.high, 0, 0, _CONFIDENCE)
    return MetricValue(Target.parse(name), estimate)
