"""Reports on parts of a case merge into one report; the verdict of a run follows from its cases."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.core.report import (
    EXIT_CODES,
    CaseRef,
    CaseReport,
    DisagreementError,
    MetricValue,
    NotJudged,
    ParetoResult,
    Sample,
    merged,
    verdict_of,
)
from sae_guard.core.statistics import Estimate
from sae_guard.core.targets import Target
from sae_guard.core.verdicts import Status, Verdict
from sae_guard.errors import InfrastructureError
from tests.helpers.reports import (
    CASE,
    PARETO,
    PROVENANCE,
    case_report,
    case_reports,
    contracts,
    controls,
    verdict,
)

LISTS = ("contracts", "verdicts")
"""Fields that hold a part for each of several tests; other fields are one part."""


def test_node_ids_of_a_case_are_those_of_pytest() -> None:
    name = "thresholds/demo.yaml::blocks.2.hook_resid_post"
    assert CASE.spec == name
    assert CASE.node_id(Target.parse("kl.p99")) == f"{name}::kl.p99[v3]"
    assert CASE.node_id("load.keys") == f"{name}::load.keys[v3]"
    assert CASE.test_name("controls") == "controls[v3]"
    assert str(CASE) == f"{name} [v3]"
    assert not CASE.is_control
    assert CaseRef("a", "b", "control:zero").is_control


@st.composite
def split_reports(draw: st.DrawFn) -> tuple[CaseReport, list[CaseReport]]:
    """Draw a report and its split over several processes, with each part in one or more."""
    report = draw(case_reports())
    n = draw(st.integers(1, 4))
    holders = st.sets(st.integers(0, n - 1), min_size=1)
    processes: list[dict[str, Any]] = [dict.fromkeys(LISTS, ()) for _ in range(n)]
    for field in fields(CaseReport):
        if field.name in LISTS:
            for part in getattr(report, field.name):
                for at in draw(holders):
                    processes[at][field.name] += (part,)
        elif field.name != "case":
            for at in draw(holders):
                processes[at][field.name] = getattr(report, field.name)
    return report, draw(st.permutations([CaseReport(report.case, **parts) for parts in processes]))


def in_order(report: CaseReport) -> str:
    """Return the report as text with sorted tests, so that NaN equals NaN and order is ignored."""
    return repr(
        replace(
            report,
            contracts=tuple(sorted(report.contracts, key=lambda part: part.test)),
            verdicts=tuple(sorted(report.verdicts, key=lambda part: str(part.target))),
        )
    )


@given(split_reports())
def test_merged_parts_equal_the_report_of_one_process(
    split: tuple[CaseReport, list[CaseReport]],
) -> None:
    report, parts = split
    assert in_order(merged(parts)) == in_order(report)
    assert in_order(merged([merged(parts[:1]), *parts[1:]])) == in_order(report)
    assert in_order(merged([*parts, report])) == in_order(report)


@given(case_reports())
def test_merging_keeps_the_order_of_parts(report: CaseReport) -> None:
    bare = replace(report, contracts=(), verdicts=())
    parts = [replace(bare, contracts=(part,)) for part in report.contracts]
    parts += [replace(bare, verdicts=(part,)) for part in report.verdicts]
    assert repr(merged([bare, *parts])) == repr(report)


PARTS = case_report(
    verdict(), contracts=contracts("pass"), provenance=PROVENANCE, controls=controls(),
    pareto=ParetoResult(PARETO, "pass"),
    metrics=(MetricValue(Target("l0"), Estimate(16.0, None, None, 16256, 128)),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("kl", {"verdicts": (verdict(value=0.5),)}),
        ("kl", {"verdicts": (verdict("warn"),)}),
        ("kl", {"verdicts": (verdict(value=math.nan),)}),
        ("kl", {"verdicts": (verdict(bounds={"max": 0.3}),)}),
        ("load.readable", {"contracts": contracts("error")}),
        ("sample", {"sample": Sample(16256, 128, 129)}),
        ("provenance", {"provenance": replace(PROVENANCE, device="cuda")}),
        ("provenance", {"provenance": replace(PROVENANCE, versions={"torch": "2.12.0"})}),
        ("metrics", {"metrics": (MetricValue(Target("l0"), undefined="0/0"),)}),
        ("pareto", {"pareto": ParetoResult(PARETO, "fail")}),
        ("controls", {"controls": controls("warn")}),
    ],
)
def test_processes_that_disagree_are_an_error_with_the_case_and_the_part(
    name: str, other: dict[str, Any]
) -> None:
    for pair in ([PARTS, replace(PARTS, **other)], [replace(PARTS, **other), PARTS]):
        with pytest.raises(DisagreementError) as caught:
            merged(pair)
        assert str(caught.value) == f"{CASE}: {name} was reported twice, and differently"
        assert isinstance(caught.value, InfrastructureError)


def test_nan_agrees_with_nan_when_merging() -> None:
    undefined = case_report(verdict("error", value=math.nan), controls=controls(
        rows={"checkpoint": {"kl": math.nan}},
    ))  # fmt: skip
    again = case_report(verdict("error", value=math.nan), controls=controls(
        rows={"checkpoint": {"kl": math.nan}},
    ))  # fmt: skip
    assert repr(merged([undefined, again])) == repr(undefined)


def test_reports_of_two_cases_are_not_merged() -> None:
    with pytest.raises(ValueError, match=r"\[v2\] and .*\[v3\] are different cases"):
        merged([case_report(member="v2"), case_report(member="v3")])


def test_every_test_of_a_case_has_its_status() -> None:
    report = case_report(
        verdict("warn"), verdict(target="l0.change", status="undecided"),
        contracts=contracts("pass", "error"), controls=controls("warn"),
        pareto=ParetoResult(PARETO, "fail"),
    )  # fmt: skip
    assert report.statuses == {
        "load.readable": "pass", "load.keys": "error", "kl": "warn", "l0.change": "undecided",
        "pareto": "fail", "controls": "warn",
    }  # fmt: skip
    assert case_report().statuses == {}


def test_a_test_without_a_verdict_is_an_error_and_not_crossed() -> None:
    broken, unchecked = contracts("error", "undecided")
    report = case_report(
        verdict("error", value=None, message="0/0"), verdict(target="l0"),
        contracts=(replace(broken, message="no such file"), unchecked),
        pareto=ParetoResult(PARETO, "error", message="no record"),
        controls=controls("error", rows={}, message="no memory"),
    )  # fmt: skip
    assert report.errors == {
        "load.readable": "no such file", "load.keys": "", "kl": "0/0", "pareto": "no record",
        "controls": "no memory",
    }  # fmt: skip
    assert report.crossed == ["l0"]


def test_a_judged_test_that_does_not_pass_is_crossed() -> None:
    waived = verdict("undecided", "cosine", bounds=LENIENT)
    report = case_report(
        verdict("fail"), verdict("pass", "l0"), verdict("warn", "fvu"), waived,
        verdict("undecided", "mse"), pareto=ParetoResult(PARETO, "fail"), controls=controls("warn"),
    )  # fmt: skip
    assert report.crossed == ["kl", "mse", "pareto"]
    assert report.errors == {}


LENIENT = {"max": 0.2, "confidence": 0.99, "on_undecided": "warn"}


@pytest.mark.parametrize(
    ("status", "bounds", "outcome"),
    [
        ("pass", {"max": 0.2}, "pass"),
        ("warn", {"max": 0.2}, "pass"),
        ("fail", {"max": 0.2}, "fail"),
        ("error", {"max": 0.2}, "error"),
        ("undecided", {"max": 0.2}, "fail"),
        ("undecided", {"max": 0.2, "on_undecided": "warn"}, "fail"),
        ("undecided", {"max": 0.2, "confidence": 0.99}, "fail"),
        ("undecided", LENIENT, "pass"),
        ("fail", LENIENT, "fail"),
        ("error", LENIENT, "error"),
    ],
)
def test_a_run_is_judged_by_its_worst_threshold(
    status: Status, bounds: dict[str, Any], outcome: str
) -> None:
    judged = verdict(status, bounds=bounds)
    assert judged.passes == (outcome == "pass")
    assert verdict_of([case_report(judged)]) == outcome
    assert verdict_of([case_report(verdict("pass")), case_report(judged)]) == outcome


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (case_report(contracts=contracts("pass")), "pass"),
        (case_report(contracts=contracts("error")), "error"),
        (case_report(contracts=contracts("pass", "undecided")), "error"),
        (case_report(pareto=ParetoResult(PARETO, "pass")), "pass"),
        (case_report(pareto=ParetoResult(PARETO, "fail")), "fail"),
        (case_report(pareto=ParetoResult(PARETO, "error")), "error"),
        (case_report(controls=controls()), "pass"),
        (case_report(controls=controls("warn")), "pass"),
        (case_report(controls=controls("error", rows={})), "error"),
    ],
)
def test_every_kind_of_test_counts(report: CaseReport, outcome: str) -> None:
    assert verdict_of([report]) == outcome


def test_a_run_without_a_judged_test_is_an_error() -> None:
    judged = case_report(verdict("pass"))
    measured = case_report(metrics=(MetricValue(Target("kl"), Estimate(0.1, None, None, 9, 1)),))
    assert verdict_of([]) == "error"
    assert verdict_of([case_report()]) == "error"
    assert verdict_of([measured]) == "error"  # a value without a threshold is no pass
    assert verdict_of([measured, judged]) == "pass"
    assert verdict_of([judged], [NotJudged(CASE, "l0", "was not run")]) == "error"


@given(case_reports(), case_reports())
def test_an_error_outweighs_a_failure_and_a_failure_a_pass(
    one: CaseReport, other: CaseReport
) -> None:
    verdicts = {verdict_of([one]), verdict_of([other])}
    both = verdict_of([one, other])
    if one.statuses and other.statuses:
        assert both == max(verdicts, key=["pass", "fail", "error"].index)
    assert both == verdict_of([other, one])
    assert EXIT_CODES[both] in (0, 1, 2)
    assert (both == "pass") == (
        bool(one.statuses | other.statuses)
        and not (one.errors | other.errors)
        and not one.crossed + other.crossed
    )


def test_a_metric_without_a_threshold_has_no_verdict() -> None:
    assert not hasattr(MetricValue(Target("kl")), "passes")
    assert {field.name for field in fields(MetricValue)} == {"target", "estimate", "undefined"}
    assert Verdict(verdict().threshold, "error").passes is False
