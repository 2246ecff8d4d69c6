"""Record the measurement and the verdicts of a case, as a version in the history."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import ParetoVerdict
from sae_guard.core.report import (
    EXIT_CODES,
    CaseRef,
    CaseReport,
    MetricValue,
    RecordResult,
    RunReport,
    verdict_of,
)
from sae_guard.core.report_json import report_to_json
from sae_guard.core.verdicts import Verdict
from sae_guard.errors import SaeGuardError, SetupError
from sae_guard.gate import project
from sae_guard.gate.case_tests import measured, metric_value, metric_values
from sae_guard.gate.cases import Case
from sae_guard.gate.early import alpha_for
from sae_guard.gate.session import GateSession, JudgedOrError
from sae_guard.history import environment
from sae_guard.history.parquet import provenance_json, to_parquet
from sae_guard.history.record import (
    SCHEMA_VERSION,
    CheckpointRow,
    GitRow,
    MetricRow,
    NotRecordedError,
    ParetoRow,
    Record,
    SpecRow,
    ThresholdRow,
    check_name,
    finite,
    worst,
)
from sae_guard.history.store import REPORT, file_rows
from sae_guard.specs import Spec


@dataclass(frozen=True)
class RunInfo:
    """Facts that all records of a run share, under the names that `Record` has for them."""

    name: str
    """Name of the version."""
    run: str
    """Identifier that no other run has."""
    by: str
    """User who runs it."""
    environment: dict[str, str]
    """Versions of Python, the platform and the libraries."""
    git: GitRow | None
    """Commit of the project, if it has one."""

    @classmethod
    def collect(cls, name: str, folder: Path) -> RunInfo:
        """Collect the facts of a run in this folder; raises `SetupError` if the name is invalid."""
        check_name(name)
        user, git = environment.user(folder), environment.git(folder)
        return cls(name, uuid4().hex, user, environment.environment(), git)


class CaseResult(NamedTuple):
    """Results of a case, perhaps of a part of its tests."""

    report: CaseReport
    judged: JudgedOrError | None
    """Measurement or error; None where no test measured the case."""
    problem: str = ""
    """Reason against a record that the report does not hold, such as a test that never reported."""


class Recorder:
    """Records the cases of a run."""

    def __init__(self, session: GateSession) -> None:
        """Check that records can be written, before anything slow.

        Raises:
            SetupError: The name of the version is invalid, or early verdicts could end the run.
            HistoryError: The history cannot be written.
        """
        options = session.options
        assert options.record is not None
        self._session = session
        self._run_info = RunInfo.collect(options.record, options.root)
        session.history.prepare()
        for case in session.cases:
            if case.manifest is not None and case.manifest.version != options.record:
                raise SetupError(
                    f"{case.manifest.file} is of version {case.manifest.version}, the record would "
                    f"be of {options.record}; allowed: {case.manifest.version}",
                    options=("record",),
                )
            if alpha_for(options.early, case.spec) is not None and not options.early.audit:
                raise SetupError(
                    f"{case.member}: a record needs all sequences, but early verdicts may end the "
                    "run before (`fast` in the spec, or an option of the run): turn them off, or "
                    "audit them, which measures to the end",
                    options=("record", "audit"),
                )

    def record_all(self, results: Mapping[CaseRef, CaseResult]) -> tuple[RecordResult, ...]:
        """Record each tested checkpoint; return paths, or the reasons why there is no record."""
        records = [
            self._record(case, results[case.ref])
            for case in self._session.cases
            if case.checkpoint is not None and case.ref in results
        ]
        return tuple(records) or (RecordResult(None, refused="no checkpoint was gated"),)

    def _record(self, case: Case, result: CaseResult) -> RecordResult:
        try:
            record, files = self._build(case, result)
            path = self._session.history.add(record, files).path
        except SaeGuardError as error:
            return RecordResult(case.ref, refused=str(error))
        if "://" not in path:
            path = project.display(Path(path), self._session.options.root)
        return RecordResult(case.ref, path)

    def _build(self, case: Case, result: CaseResult) -> tuple[Record, dict[str, bytes]]:
        """Build the record and its files. Thresholds of tests that did not run are judged too."""
        judged, report = result.judged, result.report
        if problem := result.problem or next(iter(report.errors.values()), ""):
            raise NotRecordedError(problem)
        if judged is None:
            raise NotRecordedError("it was not measured: no threshold was tested")
        if isinstance(judged, SaeGuardError):
            raise NotRecordedError(str(judged))
        baseline = self._session.baseline
        verdicts = [judged.verdict(t, baseline(case, t)) for t in case.thresholds]
        # The verdict of the test comes first: there may be new records since.
        pareto = report.pareto.comparison if report.pareto else None
        pareto = pareto or self._session.baselines.pareto(case, judged.measurement)
        report = replace(
            report,
            **measured(judged.measurement),
            verdicts=tuple(verdicts),
            metrics=metric_values(judged.measurement),
        )
        return build(case, judged.measurement, report, self._run_info, pareto=pareto)


def build(
    case: Case,
    measurement: Measurement,
    report: CaseReport,
    run_info: RunInfo,
    *,
    pareto: ParetoVerdict | None = None,
) -> tuple[Record, dict[str, bytes]]:
    """Build the record of a case, and the contents of the files beside it.

    Args:
        case: A checkpoint at a spec.
        measurement: Its measurement on the whole token set.
        report: The report of the case, with all its metrics and the verdicts of all thresholds.
        run_info: Facts about the run.
        pareto: The Pareto verdict, where the spec sets that threshold.

    Raises:
        NotRecordedError: Sequences or verdicts are missing, or it is a control.
    """
    verdicts = report.verdicts
    check(measurement, verdicts)
    if case.pareto is not None and pareto is None:
        raise NotRecordedError("no verdict on pareto")
    if case.checkpoint is None or case.control:
        raise NotRecordedError("it is a control, not a checkpoint")
    files = {**to_parquet(measurement), REPORT: report_to_json(_run_of(report))}
    statuses = [(verdict.status, verdict.threshold.on_undecided) for verdict in verdicts]
    statuses += [(pareto.status, "fail")] if pareto else []
    record = Record(
        schema_version=SCHEMA_VERSION,
        created=datetime.now(UTC),
        verdict=worst(statuses),
        spec=SpecRow(file=case.spec.spec_file, name=case.spec.name, sha256=spec_sha256(case.spec)),
        checkpoint=CheckpointRow(
            label=case.member,
            named_by=case.named_by,
            reference=str(case.checkpoint),
            options=case.sae.model_dump(mode="json", exclude_none=True),
        ),
        hook=measurement.provenance.hook,
        hook_out=measurement.provenance.hook_out,
        n_sequences=measurement.n_sequences,
        n_tokens=measurement.n_tokens,
        metrics={str(value.target): _metric_row(value) for value in report.metrics},
        views={
            str(target): _metric_row(metric_value(measurement, target))
            for target in (threshold.target.itself for threshold in case.spec.thresholds)
            if not target.whole
        },
        thresholds=tuple(map(_threshold_row, verdicts)),
        pareto=_pareto_row(pareto) if pareto else None,
        provenance=provenance_json(measurement.provenance),
        files=file_rows(measurement, files),
        **vars(run_info),
    )
    return record, files


def check(measurement: Measurement, verdicts: Sequence[Verdict]) -> None:
    """Raise `NotRecordedError` unless all sequences are measured and all thresholds judged."""
    if not measurement.whole:
        raise NotRecordedError(
            f"{measurement.n_sequences:,} of the {measurement.n_whole:,} sequences were measured, "
            "but a record needs all of them: run without early verdicts and limits, or audit them",
            options=("fast", "audit"),
        )
    errors = [verdict for verdict in verdicts if verdict.status == "error"]
    if errors:
        targets = ", ".join(str(verdict.target) for verdict in errors)
        raise NotRecordedError(f"no verdict on {targets}: {errors[0].message}")
    if not verdicts:
        raise NotRecordedError("nothing was judged")


def _run_of(report: CaseReport) -> RunReport:
    """Return the report of a run of this case alone, for the file beside a record."""
    verdict = verdict_of([report])
    version = importlib.metadata.version("sae-guard")
    return RunReport(version, verdict, EXIT_CODES[verdict], (report,))


def spec_sha256(spec: Spec) -> str:
    """Return the sha256 of the content of a spec, independent of comments, layout and file."""
    parts = {
        "model": spec.model.model_dump(mode="json"),
        "hook": [spec.hook, spec.hook_out],
        "data": spec.data.model_dump(mode="json"),
        "sae": spec.sae.model_dump(mode="json"),
        "thresholds": [
            [str(t.target), t.max, t.min, t.warn_max, t.warn_min, t.confidence, t.on_undecided]
            # Keys that came later are left out where they are not set: a spec without them keeps
            # its hash.
            + ([t.change] if t.change else [])
            for t in spec.thresholds
        ],
        **({"pareto": [spec.pareto.x, spec.pareto.y]} if spec.pareto else {}),
        **({"baseline": [spec.baseline, spec.strict_env]} if spec.baseline else {}),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _metric_row(value: MetricValue) -> MetricRow:
    metric, estimate = METRICS[value.target.metric], value.estimate
    definition: dict[str, Any] = {"unit": metric.unit, "formula_version": metric.version}
    if estimate is None:
        return MetricRow(undefined=value.undefined, **definition)
    low, high = finite(estimate.low), finite(estimate.high)
    return MetricRow(
        value=estimate.value, low=low, high=high, confidence=estimate.confidence, **definition
    )


def _pareto_row(verdict: ParetoVerdict) -> ParetoRow:
    return ParetoRow(
        x=verdict.pareto.x,
        y=verdict.pareto.y,
        where=verdict.pareto.where,
        verdict=verdict.status,
        records=len(verdict.others),
        dominated_by=tuple(point.name for point in verdict.dominated_by),
    )


_COPIED = ("max", "min", "warn_max", "warn_min", "confidence", "on_undecided", "where")
"""Attributes of a threshold that a record has under the same names."""


def _threshold_row(verdict: Verdict) -> ThresholdRow:
    threshold, estimate, change = verdict.threshold, verdict.estimate, verdict.change
    return ThresholdRow(
        metric=str(threshold.target),
        **{name: getattr(threshold, name) for name in _COPIED},
        verdict=verdict.status,
        value=finite(verdict.value),
        low=finite(estimate.low) if estimate else None,
        high=finite(estimate.high) if estimate else None,
        headroom=finite(verdict.headroom),
        marginal=verdict.marginal or None,
        message=verdict.message or None,
        audit=verdict.audit or None,
        change=threshold.change or None,
        baseline=change.baseline if change else None,
        before=finite(change.before) if change else None,
        p_value=change.p_value if change else None,
        note="; ".join(change.noted) or None if change else None,
    )
