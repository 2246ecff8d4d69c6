"""Case, measurement and verdicts → a record and its files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import ParetoVerdict
from sae_guard.core.targets import Target, estimate
from sae_guard.core.verdicts import Status, Verdict
from sae_guard.errors import UndefinedMetricError
from sae_guard.gate.cases import Case
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
from sae_guard.history.store import files_of
from sae_guard.specs import Spec


@dataclass(frozen=True)
class Occasion:
    """What all records of a run have in common."""

    name: str
    run: str
    by: str
    environment: dict[str, str]
    git: GitRow | None

    @classmethod
    def of(cls, name: str, folder: Path) -> Occasion:
        """Of a run in this folder of a project; raises `SetupError` on a name that is none."""
        check_name(name)
        return cls(
            name,
            uuid4().hex,
            environment.user(folder),
            environment.environment(),
            environment.git(folder),
        )


def make(
    case: Case,
    measurement: Measurement,
    verdicts: Sequence[Verdict],
    occasion: Occasion,
    *,
    file: str,
    pareto: ParetoVerdict | None = None,
) -> tuple[Record, dict[str, bytes]]:
    """The record of a case, and the files beside it.

    Args:
        case: A checkpoint at a spec.
        measurement: Of it, whole.
        verdicts: Of all thresholds of the spec.
        occasion: Of the run.
        file: What to call the spec's file.
        pareto: The verdict beside earlier records, of a spec that asks for it.

    Raises:
        NotRecordedError: Sequences are missing, or a verdict was not reached.
    """
    check(measurement, verdicts)
    if case.pareto is not None and pareto is None:
        raise NotRecordedError("no verdict on pareto")
    if case.checkpoint is None or case.control:
        raise NotRecordedError("it is a control, not a checkpoint")
    files = to_parquet(measurement)
    told = [(each.status, each.threshold.on_undecided) for each in verdicts]
    told += [(_status(pareto), "fail")] if pareto else []
    record = Record(
        schema_version=SCHEMA_VERSION,
        name=occasion.name,
        created=datetime.now(UTC),
        run=occasion.run,
        by=occasion.by,
        verdict=worst(told),
        spec=SpecRow(file=file, name=case.spec.name, sha256=spec_sha256(case.spec)),
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
        environment=occasion.environment,
        git=occasion.git,
        files=files_of(measurement, files),
    )
    return record, files


def check(measurement: Measurement, verdicts: Sequence[Verdict]) -> None:
    """Raise `NotRecordedError` unless the numbers are the metrics, and all was judged."""
    if not measurement.whole:
        raise NotRecordedError(
            f"{measurement.n_sequences:,} of the {measurement.n_whole:,} sequences were measured, "
            "and estimates are no metrics: run without --sae-fast, or with --sae-audit and no "
            "budget"
        )
    broken = [verdict for verdict in verdicts if verdict.status == "error"]
    if broken:
        named = ", ".join(str(verdict.threshold.target) for verdict in broken)
        raise NotRecordedError(f"no verdict on {named}: {broken[0].message}")
    if not verdicts:
        raise NotRecordedError("nothing was judged")


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
