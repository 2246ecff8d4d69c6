"""Keep what was measured and judged of a case as a record of a version."""

from __future__ import annotations

import importlib.metadata
import json
import math
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
    RecordResult,
    RunReport,
    verdict_of,
)
from sae_guard.core.report_json import report_to_json
from sae_guard.core.targets import Target, estimate
from sae_guard.core.verdicts import Status, Verdict
from sae_guard.errors import SaeGuardError, SetupError, UndefinedMetricError
from sae_guard.gate import project
from sae_guard.gate.case_tests import measured, metric_values
from sae_guard.gate.cases import Case
from sae_guard.gate.early import alpha_for
from sae_guard.gate.session import GateSession, JudgedOrError
from sae_guard.history import environment
from sae_guard.history.parquet import plain, to_parquet
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
    worst,
)
from sae_guard.history.store import REPORT, files_of
from sae_guard.specs import Spec


@dataclass(frozen=True)
class RunInfo:
    """What all records of a run have in common."""

    name: str
    run: str
    by: str
    environment: dict[str, str]
    git: GitRow | None

    @classmethod
    def collect(cls, name: str, folder: Path) -> RunInfo:
        """Describe a run in this folder of a project; raises `SetupError` on a bad name."""
        check_name(name)
        return cls(
            name,
            uuid4().hex,
            environment.user(folder),
            environment.environment(),
            environment.git(folder),
        )


class Tested(NamedTuple):
    """What came of the tests of a case."""

    report: CaseReport
    """Of those that were run; others may have been left out."""
    judged: JudgedOrError | None
    """None where it was not measured."""
    problem: str = ""
    """Why it cannot be recorded, if a test gave no verdict."""


class Recorder:
    """Records the cases of a run."""

    def __init__(self, session: GateSession) -> None:
        """See that records can be kept, before anything slow.

        Raises:
            SetupError: The name is none, or the run would end before all is measured.
            HistoryError: The history cannot be written.
        """
        options = session.options
        assert options.record is not None
        self._session = session
        self._run_info = RunInfo.collect(options.record, options.root)
        session.history.prepare()
        for case in session.cases:
            if alpha_for(options.early, case.spec) is not None and not options.early.audit:
                raise SetupError(
                    f"{case.label}: a record is of all sequences, and early verdicts end before "
                    "(a limit, or `fast` in the spec asks for them): audit them",
                    options=("record", "audit"),
                )

    def record_all(self, tested: Mapping[CaseRef, Tested]) -> tuple[RecordResult, ...]:
        """Record the checkpoints that were tested; that there is none is refused too."""
        results = [
            self._record(case, tested[case.ref])
            for case in self._session.cases
            if case.checkpoint is not None and case.ref in tested
        ]
        return tuple(results) or (RecordResult(None, refused="no checkpoint was gated"),)

    def _record(self, case: Case, tested: Tested) -> RecordResult:
        try:
            record, files = self._built(case, tested)
            path = self._session.history.add(record, files).path
        except SaeGuardError as error:
            return RecordResult(case.ref, refused=str(error))
        return RecordResult(
            case.ref,
            project.display(Path(path), self._session.options.root) if "://" not in path else path,
        )

    def _built(self, case: Case, tested: Tested) -> tuple[Record, dict[str, bytes]]:
        """Build the record, for which all thresholds are judged anew."""
        judged, report = tested.judged, tested.report
        if tested.problem:
            raise NotRecordedError(tested.problem)
        if judged is None:
            raise NotRecordedError("it was not measured: no threshold was tested")
        if isinstance(judged, SaeGuardError):
            raise NotRecordedError(str(judged))
        baseline = self._session.baseline
        verdicts = [judged.verdict(each, baseline(case, each)) for each in case.thresholds]
        # As its test reported it, for there may be new records since; anew where none was run.
        pareto = report.pareto.comparison if report.pareto else None
        pareto = pareto or self._session.pareto(case, judged.measurement)
        whole = replace(
            report,
            **measured(judged.measurement),
            verdicts=tuple(verdicts),
            metrics=metric_values(judged.measurement),
        )
        return build(case, judged.measurement, whole, self._run_info, pareto=pareto)


def build(
    case: Case,
    measurement: Measurement,
    report: CaseReport,
    run_info: RunInfo,
    *,
    pareto: ParetoVerdict | None = None,
) -> tuple[Record, dict[str, bytes]]:
    """Build the record of a case, and the files beside it.

    Args:
        case: A checkpoint at a spec.
        measurement: Of it, whole.
        report: Of it, with the verdicts of all thresholds of the spec.
        run_info: Of the run.
        pareto: The verdict beside earlier records, of a spec that asks for it.

    Raises:
        NotRecordedError: Sequences are missing, or a verdict was not reached.
    """
    verdicts = report.verdicts
    check(measurement, verdicts)
    if case.pareto is not None and pareto is None:
        raise NotRecordedError("no verdict on pareto")
    if case.checkpoint is None or case.control:
        raise NotRecordedError("it is a control, not a checkpoint")
    files = {**to_parquet(measurement), REPORT: report_to_json(_of_one_case(report))}
    told = [(each.status, each.threshold.on_undecided) for each in verdicts]
    told += [(_status(pareto), "fail")] if pareto else []
    record = Record(
        schema_version=SCHEMA_VERSION,
        name=run_info.name,
        created=datetime.now(UTC),
        run=run_info.run,
        by=run_info.by,
        verdict=worst(told),
        spec=SpecRow(file=case.spec.spec_file, name=case.spec.name, sha256=spec_sha256(case.spec)),
        checkpoint=CheckpointRow(
            label=case.label,
            reference=str(case.checkpoint),
            options=case.sae.model_dump(mode="json", exclude_none=True),
        ),
        hook=measurement.provenance.hook,
        hook_out=measurement.provenance.hook_out,
        n_sequences=measurement.n_sequences,
        n_tokens=measurement.n_tokens,
        metrics={name: _row(measurement, Target(name)) for name in METRICS},
        views={
            str(target): _row(measurement, target)
            for target in (threshold.target.itself for threshold in case.spec.thresholds)
            if not target.whole
        },
        thresholds=tuple(map(_threshold, verdicts)),
        pareto=_pareto(pareto) if pareto else None,
        provenance=plain(measurement.provenance),
        environment=run_info.environment,
        git=run_info.git,
        files=files_of(measurement, files),
    )
    return record, files


def check(measurement: Measurement, verdicts: Sequence[Verdict]) -> None:
    """Raise `NotRecordedError` unless the numbers are the metrics, and all was judged."""
    if not measurement.whole:
        raise NotRecordedError(
            f"{measurement.n_sequences:,} of the {measurement.n_whole:,} sequences were measured, "
            "and estimates are no metrics: run without early verdicts and limits, or audit them",
            options=("fast", "audit"),
        )
    broken = [verdict for verdict in verdicts if verdict.status == "error"]
    if broken:
        named = ", ".join(str(verdict.threshold.target) for verdict in broken)
        raise NotRecordedError(f"no verdict on {named}: {broken[0].message}")
    if not verdicts:
        raise NotRecordedError("nothing was judged")


def _of_one_case(report: CaseReport) -> RunReport:
    verdict = verdict_of([report])
    version = importlib.metadata.version("sae-guard")
    return RunReport(version, verdict, EXIT_CODES[verdict], (report,))


def spec_sha256(spec: Spec) -> str:
    """Of what a spec says, not of how or where it is written."""
    parts = {
        "model": spec.model.model_dump(mode="json"),
        "hook": [spec.hook, spec.hook_out],
        "data": spec.data.model_dump(mode="json"),
        "sae": spec.sae.model_dump(mode="json"),
        "thresholds": [
            [str(t.target), t.max, t.min, t.warn_max, t.warn_min, t.confidence, t.on_undecided]
            + ([t.change] if t.change else [])
            for t in spec.thresholds
        ],
        **({"pareto": [spec.pareto.x, spec.pareto.y]} if spec.pareto else {}),
        **({"baseline": [spec.baseline, spec.strict_env]} if spec.baseline else {}),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _row(measurement: Measurement, target: Target) -> MetricRow:
    about = METRICS[target.metric]
    told: dict[str, Any] = {"unit": about.unit, "formula_version": about.version}
    try:
        found = estimate(measurement, target)
    except UndefinedMetricError as error:
        return MetricRow(undefined=str(error), **told)
    if not math.isfinite(found.value):
        return MetricRow(undefined=f"it is {found.value}", **told)
    return MetricRow(
        value=found.value,
        low=_said(found.low),
        high=_said(found.high),
        confidence=found.confidence,
        **told,
    )


def _status(pareto: ParetoVerdict) -> Status:
    return "pass" if pareto.passes else "fail"


def _pareto(verdict: ParetoVerdict) -> ParetoRow:
    return ParetoRow(
        x=verdict.pareto.x,
        y=verdict.pareto.y,
        where=verdict.pareto.where,
        verdict=_status(verdict),
        records=len(verdict.others),
        dominated_by=tuple(each.name for each in verdict.dominated_by),
    )


def _said(value: float | None) -> float | None:
    """None for what JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None


def _threshold(verdict: Verdict) -> ThresholdRow:
    threshold, found, moved = verdict.threshold, verdict.estimate, verdict.change
    return ThresholdRow(
        metric=str(threshold.target),
        max=threshold.max,
        min=threshold.min,
        warn_max=threshold.warn_max,
        warn_min=threshold.warn_min,
        confidence=threshold.confidence,
        on_undecided=threshold.on_undecided,
        where=threshold.where,
        verdict=verdict.status,
        value=_said(found.value) if found else None,
        low=_said(found.low) if found else None,
        high=_said(found.high) if found else None,
        headroom=_said(threshold.headroom(found.value)) if found else None,
        marginal=verdict.marginal or None,
        message=verdict.message or None,
        audit=verdict.audit or None,
        change=threshold.change or None,
        baseline=moved.baseline if moved else None,
        before=_said(moved.before) if moved else None,
        p_value=moved.p_value if moved else None,
        note="; ".join(moved.noted) or None if moved else None,
    )
