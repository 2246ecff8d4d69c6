"""Report of a run, or records of a version → measured values of the thresholds of a spec."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sae_guard.cli.records import open_history, read_records
from sae_guard.core.measurement import Provenance
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseRef, CaseReport, MetricValue, RunReport
from sae_guard.core.statistics import Estimate, rescaled
from sae_guard.core.targets import Target, level
from sae_guard.core.thresholds import Threshold
from sae_guard.core.tightening import Measured
from sae_guard.core.verdicts import Verdict, judge
from sae_guard.errors import SetupError, allowed
from sae_guard.history import HistoryError, Recorded, find_records, read_measurement
from sae_guard.history.record import MetricRow, ThresholdRow
from sae_guard.specs import Spec

_CONFIDENCE = 0.95
"""Confidence of the intervals in a record."""


def reports_of_file(report: RunReport, path: Path, *, file: str) -> list[CaseReport]:
    """Return the cases of a run that the spec file at ``path`` gates, with their verdicts only.

    Raises:
        SetupError: Like `name_of_path`.
    """
    name = name_of_path({case.case.spec_file for case in report.cases}, path, file=file)
    return [replace(case, metrics=()) for case in report.cases if case.case.spec_file == name]


def name_of_path(names: Collection[str], path: Path, *, file: str) -> str:
    """Return the name that the spec file at ``path`` has in a run.

    Args:
        names: Paths of spec files from the root folder of the run, which need not be the current
            folder.
        path: Path of the spec file.
        file: Name of the report or version, for messages.

    Raises:
        SetupError: None of the names is that of the spec file, or several could be.
    """
    ordered = sorted(names)
    matching = [name for name in ordered if _ends_with(path.absolute(), name)]
    matching = matching or [name for name in ordered if _ends_with(path.resolve(), name)]
    if not matching:
        raise SetupError(
            f"{file} has no verdicts by {path}; it has those by {', '.join(ordered) or 'none'}"
        )
    if len(matching) > 1:
        raise SetupError(f"{file} has specs that could be {path}: {', '.join(matching)}")
    return matching[0]


def _ends_with(path: Path, name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and path.parts[-len(parts) :] == parts


def select_checkpoints(
    reports: Sequence[CaseReport], checkpoints: Sequence[str], *, file: str
) -> list[CaseReport]:
    """Select the reports of some checkpoints, or of all; reports of controls are kept.

    Raises:
        SetupError: A checkpoint has no report.
    """
    names = {report.case.member for report in reports if not report.case.is_control}
    for name in checkpoints:
        if name not in names:
            raise SetupError(f"{file} has no checkpoint {name!r}; {allowed(name, names)}")
    return [
        report
        for report in reports
        if not checkpoints or report.case.member in checkpoints or report.case.is_control
    ]


def measured_values(
    reports: Sequence[CaseReport], spec: Spec, *, file: str
) -> dict[Target, list[Measured]]:
    """Return the values of the thresholds of one document, one for each checkpoint.

    Raises:
        SetupError: A test has an error or an early estimate; a report is of other tokens or another
            hook point than the spec has now; or only some checkpoints have a value.
    """
    own_reports = [report for report in reports if report.case.document == spec.name]
    problems = [text for report in own_reports for text in _problems(report, spec)]
    if problems:
        raise SetupError("\n".join(f"{file}: {text}" for text in dict.fromkeys(problems)))
    thresholds = {threshold.target: threshold for threshold in spec.thresholds}
    by_target: dict[Target, list[Measured]] = {}
    for report in own_reports:
        for value in _values(report):
            if value.target in thresholds and value.estimate is not None:
                threshold = thresholds[value.target]
                low, high = _interval(value.estimate, threshold) or (None, None)
                d_sae = report.provenance.checkpoint.get("d_sae") if report.provenance else None
                measured = Measured(report.case.member, value.estimate.value, low, high, d_sae)
                by_target.setdefault(value.target, []).append(measured)
    checkpoints = {value.checkpoint for values in by_target.values() for value in values}
    for target, values in by_target.items():
        if missing := checkpoints - {value.checkpoint for value in values}:
            raise SetupError(
                f"{file} has {spec.name}::{target} of {values[0].checkpoint} and not of "
                f"{', '.join(sorted(missing))}; choose by --checkpoint"
            )
    return by_target


def _values(report: CaseReport) -> Sequence[Verdict | MetricValue]:
    """Return all values of a checkpoint; none of a control, whose values bound nothing."""
    return () if report.case.is_control else (*report.verdicts, *report.metrics)


def _problems(report: CaseReport, spec: Spec) -> Iterator[str]:
    """Write why values of the report cannot be used for the spec."""
    name = report.case.node_id
    for test, message in report.errors.items():
        yield f"{name(test)} is an error and has no value: {message}"
    if report.case.is_control:
        for test in report.crossed:
            status = report.statuses[test]
            yield f"{name(test)} is {status}, so no number of this run can be trusted"
        return
    for verdict in report.verdicts:
        if verdict.status == "error":
            continue  # `CaseReport.errors` has it
        if verdict.progress is not None:
            yield (
                f"{name(verdict.target)} is an early verdict on {verdict.progress.measured:,} of "
                f"{verdict.progress.total:,} sequences, so its value is not the metric; measure all"
            )
        elif verdict.estimate is None:
            yield f"{name(verdict.target)} has no value"
    targets = [value.target for value in _values(report)]
    differences = list(_differences(report.provenance, targets, spec)) if targets else []
    if differences:
        text = ", ".join(differences)
        yield f"{report.case} was measured with other settings than the spec has now: {text}"


def _differences(
    provenance: Provenance | None, targets: Sequence[Target], spec: Spec
) -> Iterator[str]:
    """List what differs between a measurement and what the spec has now."""
    measured: Mapping[str, Any] = asdict(provenance) if provenance else {}
    model, name = _mapping(measured, "model"), spec.model.path_or_name(spec.file.parent)
    if isinstance(name, Path):  # the folder can be elsewhere on another machine
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
    # Limits of the setup's check: they change no number.
    keys = sorted({*data, *source} - {"expect_clean_ce"})
    pairs += [(f"data.{key}", source.get(key), data.get(key)) for key in keys]
    versions = _mapping(measured, "formula_versions")
    for metric in dict.fromkeys(target.metric for target in targets if target.metric in METRICS):
        version = METRICS[metric].version
        pairs.append((f"version of the formula of {metric}", versions.get(metric), version))
    for key, old, new in pairs:
        if old != new:
            yield f"{key} was {_short_json(old)} and is {_short_json(new)}"


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _short_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _interval(estimate: Estimate, threshold: Threshold) -> tuple[float, float] | None:
    """Return the interval at the confidence of the threshold; None if it cannot be derived.

    An interval of a mean is rescaled. That of a quantile is used if its confidence is enough.
    """
    if threshold.confidence is None or estimate.low is None or estimate.high is None:
        return None
    if estimate.n_sequences and level(threshold.target.statistic) is None:
        return rescaled(estimate, threshold.confidence)
    interval = (estimate.low, estimate.high)
    return interval if threshold.confidence <= estimate.confidence else None


def reports_of_version(
    reference: str, folder: str | None, path: Path, specs: Sequence[Spec]
) -> list[CaseReport]:
    """Return reports on records by the thresholds that a spec file has now.

    Args:
        reference: A promoted label, or the id, hash or name of records.
        folder: Folder or URL of the history; None for the default.
        path: Path of the spec file.
        specs: Its documents.

    Raises:
        SetupError: The reference names no record, or none of the spec file.
        HistoryError: A record cannot be read.
    """
    records = find_records(read_records(open_history(folder)), reference)
    file = name_of_path({r.record.spec.file for r in records}, path, file=reference)
    own_records = [r for r in records if r.record.spec.file == file]
    by_name = {spec.name: spec for spec in specs}
    return [
        _report_of_record(recorded, by_name.get(recorded.record.spec.name))
        for recorded in own_records
    ]


def _report_of_record(recorded: Recorded, spec: Spec | None) -> CaseReport:
    """Return a report with a value for each threshold of the spec that the record has one of.

    Thresholds are judged anew, because the spec can have thresholds that the record lacks. Those
    on single tokens, whose values a record does not have, take the recorded value; so do all if the
    spec file no longer has the document. Thresholds on changes are left out: they depend on another
    version.
    """
    record = recorded.record
    rows = {row.metric: row for row in record.thresholds if not row.change} | record.views
    verdicts: list[Verdict] = []
    values: list[MetricValue] = []
    if spec is None:
        values = [_value(name, row) for name, row in rows.items()]
    else:
        measurement = read_measurement(recorded)
        for threshold in (t for t in spec.thresholds if not t.change):
            name, verdict = str(threshold.target), judge(measurement, threshold)
            if verdict.status != "error":
                verdicts.append(verdict)
            elif name in rows and rows[name].value is not None:
                values.append(_value(name, rows[name]))
    try:
        provenance = Provenance(**record.provenance)
    except TypeError as error:
        raise HistoryError(f"{recorded.path}: provenance: {error}") from None
    case = CaseRef(record.spec.file, record.spec.name, recorded.member)
    return CaseReport(case, provenance=provenance, verdicts=tuple(verdicts), metrics=tuple(values))


def _value(name: str, row: ThresholdRow | MetricRow) -> MetricValue:
    """Return the recorded value; its numbers of tokens and sequences are 0, for unknown."""
    if row.value is None:
        return MetricValue(Target.parse(name), undefined="the record has no value")
    estimate = Estimate(row.value, row.low, row.high, 0, 0, _CONFIDENCE)
    return MetricValue(Target.parse(name), estimate)
