"""Make reports of every kind, as they are written and rendered; and draw any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar, get_args

from hypothesis import strategies as st
from pydantic import TypeAdapter

from sae_guard.core.comparison import Change
from sae_guard.core.diagnosis import NAMES, Diagnosis, Suspicion
from sae_guard.core.measurement import Provenance
from sae_guard.core.metrics import METRICS
from sae_guard.core.pareto import AXES, Pareto, ParetoVerdict, Point
from sae_guard.core.report import (
    EXIT_CODES,
    CaseRef,
    CaseReport,
    ContractResult,
    ControlsResult,
    MetricValue,
    NotGated,
    NotJudged,
    ParetoResult,
    RecordResult,
    RunReport,
    RunVerdict,
    Sample,
)
from sae_guard.core.statistics import Estimate
from sae_guard.core.targets import Target
from sae_guard.core.threshold_changes import Key, Kind, LoosenedThresholds, ThresholdChange
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Status, Verdict
from sae_guard.core.worst_tokens import Worst, WorstSequence, WorstToken
from sae_guard.errors import Cause, Contract, Option

CASE = CaseRef("thresholds/demo.yaml", "blocks.2.hook_resid_post", "v3")
SAMPLE = Sample(16256, 128, 128)
PROVENANCE = Provenance(
    model={"name": "gpt2"}, checkpoint={"path": "v3"}, corpus={"n_sequences": 128},
    hook="blocks.2.hook_resid_post", mean_sha256="3" * 64, formula_versions={"kl": 1},
    versions={"torch": "2.13.0"}, device="cpu",
)  # fmt: skip


def verdict(
    status: Status = "fail",
    target: str = "kl",
    value: float | None = 0.41239,
    *,
    interval: tuple[float, float] | None = (0.39, 0.43478),
    bounds: Mapping[str, Any] = {"max": 0.2},
    **parts: Any,
) -> Verdict:
    """Make the verdict of a threshold on KL that fails, but for what is said otherwise."""
    threshold = Threshold(target, **bounds, file="thresholds/demo.yaml", line=14)
    low, high = interval or (None, None)
    estimate = None if value is None else Estimate(value, low, high, 16256, 128)
    return Verdict(threshold, status, estimate, **parts)


def a_change(
    status: Status = "fail",
    target: str = "kl.change",
    value: float = 0.60611,
    *,
    interval: tuple[float, float] | None = (0.5818, 0.6304),
    bounds: Mapping[str, Any] = {"max": 0.02, "relative": True},
    before: float = 0.1306,
    after: float = 0.20976,
    p_value: float | None = 1e-120,
    noted: tuple[str, ...] = (),
) -> Verdict:
    """Make the verdict of a threshold on a change since a baseline."""
    change = Change(before, after, p_value, "v1.2 (97dbe6cef0cb)", noted)
    return verdict(status, target, value, interval=interval, bounds=bounds, change=change)


WORST = Worst(
    (
        WorstToken(
            17, 83, 9.3121, 0.021, 9.70611, 0.5, "arxiv/1.txt", "\n  for key in sort", "ed", "\t(x)"
        ),
        WorstToken(3, 1, math.nan, 2.0, math.inf, 1.25),
    ),
    (WorstSequence(42, 1260, 0.81234, 3.1, 3.9, "", 'def f():\r\n    """\x1b[31m\\d'),),
)


def contracts(*statuses: Status, cause: Cause = "load") -> tuple[ContractResult, ...]:
    """Make the first parts of the load contract."""
    return tuple(
        ContractResult(contract, status, None if status == "pass" else cause)
        for contract, status in zip(get_args(Contract), statuses, strict=False)
    )


ROWS = {
    "checkpoint": {"kl": 0.41239, "reconstruction_score": 0.9, "l0": 16.0},
    "random error": {"kl": 0.25, "reconstruction_score": None, "l0": None},
    "permuted decoder": {"kl": 5.2751, "reconstruction_score": -0.1, "l0": 16.0},
}


def controls(status: Status = "pass", **parts: Any) -> ControlsResult:
    """Make the numbers of a checkpoint beside those of its controls."""
    return ControlsResult(status, **{"rows": ROWS, **parts})


PARETO = Pareto("l0", "kl", "thresholds/demo.yaml", 30)
COMPARISON = ParetoVerdict(PARETO, Point("v1", 16.0, 0.21), (Point("v2", 15.98, 0.13),))


def as_recorded(time: datetime) -> datetime:
    """Give the time as promotions that were read hold it, whose zone is a class of pydantic."""
    read: datetime = TypeAdapter(datetime).validate_python(time.isoformat())
    return read


LOOSENED = LoosenedThresholds(
    "v1.2", "20261125T103000Z-v1.2-0123456789ab",
    as_recorded(datetime(2026, 11, 25, 10, 30, tzinfo=UTC)), "Ada Lovelace",
    (ThresholdChange("kl", "max", 0.1, 0.2, "loosened", looser=True),),
)  # fmt: skip


def case_report(*verdicts: Verdict, member: str = "v3", **parts: Any) -> CaseReport:
    """Make the report of a member of the demo, with the sample where there are verdicts."""
    case = CaseRef(CASE.spec_file, CASE.document, member)
    sample = SAMPLE if verdicts else None
    return CaseReport(case, **{"sample": sample, "verdicts": verdicts, **parts})


def run_report(*cases: CaseReport, verdict: RunVerdict = "pass", **parts: Any) -> RunReport:
    """Make the report of a run."""
    return RunReport("0.1.0", verdict, EXIT_CODES[verdict], cases, **parts)


_Drawn = TypeVar("_Drawn")


def _tuples(items: st.SearchStrategy[_Drawn], **how: Any) -> st.SearchStrategy[tuple[_Drawn, ...]]:
    return st.lists(items, max_size=2, **how).map(tuple)


def _one_of(literal: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(literal))


_NUMBERS = st.floats()  # NaN, infinities and −0 too
_SURROGATES = st.integers(0xDC80, 0xDCFF).map(chr)
_TEXTS = st.text(st.characters(codec="utf-8") | _SURROGATES, max_size=5)
"""With what Python has in the names of files that are no UTF-8, too."""
_COUNTS = st.integers(0, 2**40)
_STATUSES: st.SearchStrategy[Status] = _one_of(Status)
_CAUSES: st.SearchStrategy[Cause | None] = st.none() | _one_of(Cause)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(_TEXTS, children, max_size=2),
    max_leaves=3,
)  # fmt: skip
_OBJECTS = st.dictionaries(_TEXTS, _JSON, max_size=2)
_BY_TEXT = st.dictionaries(_TEXTS, _TEXTS, max_size=1)

TARGETS = st.sampled_from(
    [
        *map(Target, METRICS),
        *map(
            Target.parse,
            ("kl.p99", "kl.p99.9.change@position=0..8", "kl.worst_sequence", "kl@entropy=2.5..",
             "kl@source=arxiv*", "l0.change", "reconstruction_score[mean].change"),
        ),
    ]
)  # fmt: skip

estimates = st.builds(
    Estimate, _NUMBERS, st.none() | _NUMBERS, st.none() | _NUMBERS, _COUNTS, _COUNTS, _NUMBERS
)


@st.composite
def any_thresholds(draw: st.DrawFn) -> Threshold:
    """Draw thresholds on everything that one can be on, with any bounds."""
    target = draw(TARGETS)
    sides = draw(st.sampled_from([("max",), ("min",), ("max", "min")]))
    bounds: dict[str, Any] = {side: draw(_NUMBERS) for side in sides}
    return Threshold(
        target,
        **bounds,
        warn_max=draw(st.none() | _NUMBERS),
        warn_min=draw(st.none() | _NUMBERS),
        confidence=draw(st.none() | st.sampled_from([0.6, 0.95, 0.99])),
        on_undecided=draw(st.sampled_from(["fail", "warn"])),
        relative=target.change and draw(st.booleans()),
        file=draw(_TEXTS),
        line=draw(_COUNTS),
    )


verdicts = st.builds(
    Verdict,
    any_thresholds(),
    _STATUSES,
    st.none() | estimates,
    _CAUSES,
    message=_TEXTS,
    marginal=_TEXTS,
    progress=st.none() | st.builds(Progress, _COUNTS, _COUNTS, _NUMBERS),
    audit=_TEXTS,
    change=st.none()
    | st.builds(Change, _NUMBERS, _NUMBERS, st.none() | _NUMBERS, _TEXTS, _tuples(_TEXTS)),
)

contract_results = st.builds(ContractResult, _one_of(Contract), _STATUSES, _CAUSES, _TEXTS)
metric_values = st.builds(MetricValue, TARGETS, st.none() | estimates, _TEXTS)


@st.composite
def pareto_results(draw: st.DrawFn) -> ParetoResult:
    """Draw results of Pareto thresholds, with a comparison or without."""
    pareto = draw(st.builds(Pareto, st.sampled_from(AXES), st.sampled_from(AXES), _TEXTS, _COUNTS))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    points = st.builds(Point, _TEXTS, finite, finite)
    comparisons = st.builds(
        ParetoVerdict, st.just(pareto), points, _tuples(points), _tuples(_TEXTS)
    )
    comparison = draw(st.none() | comparisons)
    return ParetoResult(pareto, draw(_STATUSES), comparison, draw(_CAUSES), draw(_TEXTS))


@st.composite
def controls_results(draw: st.DrawFn) -> ControlsResult:
    """Draw the numbers of a checkpoint and of some controls; of an error there are none."""
    status = draw(_STATUSES)
    columns = draw(st.lists(st.sampled_from(sorted(METRICS)), min_size=1, max_size=3, unique=True))
    names = draw(st.lists(st.sampled_from([*ROWS, "\udc80"]), min_size=1, unique=True))
    rows = {name: {column: draw(st.none() | _NUMBERS) for column in columns} for name in names}
    return ControlsResult(status, {} if status == "error" else rows, draw(_CAUSES), draw(_TEXTS))


diagnoses = st.builds(
    Diagnosis,
    _tuples(
        st.builds(
            Suspicion,
            st.sampled_from(NAMES),
            _TEXTS,
            _TEXTS,
            _tuples(st.tuples(_one_of(Option), _TEXTS)),
        )
    ),
    _tuples(_TEXTS),
)

worsts = st.builds(
    Worst,
    _tuples(st.builds(WorstToken, _COUNTS, _COUNTS, *[_NUMBERS] * 4, *[_TEXTS] * 4)),
    _tuples(st.builds(WorstSequence, _COUNTS, _COUNTS, *[_NUMBERS] * 3, _TEXTS, _TEXTS)),
)

# Bounds of specs and of records are finite.
_OLD_OR_NEW = st.none() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
_TIMES = st.datetimes(
    datetime(2000, 1, 1), datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-12, 12).map(lambda hours: timezone(timedelta(hours=hours))),
).map(as_recorded)  # fmt: skip
loosened_thresholds = st.builds(
    LoosenedThresholds,
    _TEXTS,
    _TEXTS,
    _TIMES,
    _TEXTS,
    _tuples(
        st.builds(
            ThresholdChange,
            _TEXTS,
            _one_of(Key),
            _OLD_OR_NEW,
            _OLD_OR_NEW,
            _one_of(Kind),
            st.booleans(),
            st.booleans(),
        )
    ),
)

provenances = st.builds(
    Provenance,
    model=_OBJECTS,
    checkpoint=_OBJECTS,
    corpus=_OBJECTS,
    hook=_TEXTS,
    mean_sha256=_TEXTS,
    formula_versions=st.dictionaries(_TEXTS, _COUNTS, max_size=1),
    versions=_BY_TEXT,
    device=_TEXTS,
    hook_out=st.none() | _TEXTS,
    paths=_BY_TEXT
    | st.fixed_dictionaries(
        {"clean run": st.sampled_from(["measured before", "run, and not remembered: x"])}
    )
    | st.fixed_dictionaries({"because": st.just("asked for") | _TEXTS}),
)

case_refs = st.builds(CaseRef, _TEXTS, _TEXTS, _TEXTS)


def case_reports(
    cases: st.SearchStrategy[CaseRef] = case_refs,
) -> st.SearchStrategy[CaseReport]:
    """Draw reports of which any part may be there."""
    return st.builds(
        CaseReport,
        cases,
        sample=st.none() | st.builds(Sample, _COUNTS, _COUNTS, _COUNTS),
        provenance=st.none() | provenances,
        contracts=_tuples(contract_results, unique_by=lambda part: part.contract),
        verdicts=_tuples(verdicts, unique_by=lambda part: part.target),
        metrics=_tuples(metric_values, unique_by=lambda part: part.target),
        pareto=st.none() | pareto_results(),
        controls=st.none() | controls_results(),
        diagnosis=st.none() | diagnoses,
        worst=st.none() | worsts,
        loosened=st.none() | loosened_thresholds,
    )


run_reports = st.builds(
    RunReport,
    _TEXTS,
    _one_of(RunVerdict),
    st.integers(0, 5),
    _tuples(case_reports()),
    _tuples(st.builds(NotJudged, case_refs, _TEXTS, _TEXTS)),
    _tuples(st.builds(NotGated, _TEXTS, st.none() | _TEXTS, _TEXTS)),
    _tuples(st.builds(RecordResult, st.none() | case_refs, _TEXTS, _TEXTS)),
    _tuples(_TEXTS),
    _tuples(_TEXTS),
)
