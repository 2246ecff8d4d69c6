"""The summary at the end of a run: a block for each case, then remarks on the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from sae_guard.core.diagnosis import Diagnosis, Suspicion
from sae_guard.core.pareto import ParetoVerdict, Point
from sae_guard.core.report import (
    CaseRef,
    CaseReport,
    ContractResult,
    NotGated,
    NotJudged,
    ParetoResult,
    RecordResult,
    RunReport,
)
from sae_guard.core.report_json import report_from_json, report_to_json
from sae_guard.core.verdicts import Status
from sae_guard.render.terminal_summary import case_lines, path_lines, summary
from tests.helpers.reports import (
    CASE,
    COMPARISON,
    LOOSENED,
    PARETO,
    PROVENANCE,
    a_change,
    case_report,
    contracts,
    controls,
    run_report,
    run_reports,
    verdict,
)

TITLE = "thresholds/demo.yaml::blocks.2.hook_resid_post [v3]"


def lines(*cases: CaseReport) -> list[str]:
    """Return the summary of a run of these cases."""
    return list(summary(run_report(*cases)))


@given(run_reports)
def test_a_report_that_was_written_and_read_has_the_same_lines(report: RunReport) -> None:
    again = report_from_json(report_to_json(report), file="report.json")
    for verbose in (False, True):
        assert list(summary(again, verbose=verbose)) == list(summary(report, verbose=verbose))


@given(run_reports)
def test_each_case_has_a_block_and_each_missing_verdict_a_line(report: RunReport) -> None:
    every = list(summary(report, verbose=True))
    texts = [[*case_lines(case), ""] for case in report.cases]
    texts.sort(key=lambda block: not block[0].startswith("NOT MEASURED"))
    blocks = [line for block in texts for line in block]
    assert every[: len(blocks)] == blocks
    rest = every[len(blocks) :]
    for beginning, expected in (
        ("NO VERDICT: ", len(report.not_judged)),
        ("not gated: ", len(report.not_gated)),
        ("LOOSER than at ", len({case.case.spec for case in report.cases if case.loosened})),
        ("WARNING: ", len(report.warnings)),
    ):
        assert sum(line.startswith(beginning) for line in rest) >= expected
    recorded = sum(bool(record.path) for record in report.records)
    assert sum(line.startswith("recorded: ") for line in rest) >= recorded
    refused = len(report.records) - recorded
    assert sum(line.startswith("NOT RECORDED: ") for line in rest) >= refused


def test_suspicions_of_a_passing_checkpoint_are_warnings() -> None:
    off = Diagnosis((Suspicion("scale", "the best factor is 0.9", "undo it"),), ("tried", "none"))
    passing = case_report(verdict("pass"), verdict("warn", "l0"), diagnosis=off)
    assert lines(passing)[4:] == [
        "  WARNING: scale: the best factor is 0.9",
        "    try: undo it",
        "  tried",
        "  none",
        "",
    ]
    spelled = summary(run_report(passing), spelling=lambda _: "-x")
    assert "    try: undo it (`-x`)" in list(spelled)
    failing = case_report(verdict(), verdict("pass", "l0"), diagnosis=off)
    assert "WARNING" not in "\n".join(lines(failing))  # the failure says it


def test_the_summary_has_a_block_per_checkpoint_that_fits_80_columns() -> None:
    passing = case_report(verdict("pass", value=0.1, interval=(0.09, 0.11)), member="v2")
    failing = case_report(
        verdict(),
        verdict(
            target="reconstruction_score[mean]", value=0.71, interval=None, bounds={"min": 0.9}
        ),
        verdict("warn", "l0", 33.3, interval=(33.2, 33.4), bounds={"min": 10.0, "max": 60.0}),
        verdict("error", "cosine", None, bounds={"min": 0.5}),
    )
    gated = NotGated("thresholds/gpt2.yaml::x", None, "why")
    written = list(summary(run_report(passing, failing, not_gated=(gated,))))
    assert written == [
        "thresholds/demo.yaml::blocks.2.hook_resid_post [v2]  16,256 tokens in 128 sequences",
        "  metric  value  ± 95 %   bound  headroom  verdict",
        "  kl        0.1    0.01  <= 0.2      +0.1  pass",
        "",
        "thresholds/demo.yaml::blocks.2.hook_resid_post [v3]  16,256 tokens in 128 sequences",
        "  metric                       value  ± 95 %   bound  headroom  verdict",
        "  kl                          0.4124   0.022  <= 0.2    -0.212  FAIL",
        "  reconstruction_score[mean]    0.71          >= 0.9     -0.19  FAIL",
        "  l0                            33.3     0.1  10..60     +23.3  WARN",
        "  cosine                           -          >= 0.5         -  ERROR",
        "",
        "not gated: thresholds/gpt2.yaml::x: why",
    ]
    assert max(map(len, written[1:4])) <= 80


POINTER = "sae_weights.safetensors is a Git LFS pointer; run `git lfs pull`."


def unmeasured(**parts: Any) -> CaseReport:
    """Make the report of a checkpoint that cannot be read."""
    error: dict[str, Any] = {"value": None, "cause": "load", "message": POINTER}
    readable = ContractResult("readable", "error", "load", POINTER)
    keys = ContractResult("keys", "undecided", "load", POINTER)
    report = case_report(
        verdict("error", "kl", **error),
        verdict("error", "l0", **error),
        contracts=(readable, keys),
        pareto=ParetoResult(PARETO, "error", cause="load", message=POINTER),
        **parts,
    )
    return replace(report, sample=None)


def test_an_unmeasured_case_has_its_reason_once_and_comes_first() -> None:
    assert lines(case_report(verdict(), member="v1"), unmeasured())[:4] == [
        f"NOT MEASURED {TITLE}: {POINTER[:-1]}; 4 checks not run",
        "  load contract BROKEN: load.readable failed; 0 passed, 1 not checked",
        "",
        "thresholds/demo.yaml::blocks.2.hook_resid_post [v1]  16,256 tokens in 128 sequences",
    ]
    failing = controls("error", rows={}, cause="load", message=POINTER)
    assert lines(unmeasured(controls=failing))[0].endswith("; 5 checks not run")


def test_below_an_unmeasured_case_are_only_errors_with_other_reasons() -> None:
    missing = verdict(
        "error", "kl.change", None, interval=None, cause="setup", message="v9 is not a version"
    )
    report = unmeasured()
    written = lines(replace(report, verdicts=(missing, *report.verdicts)))
    assert written[0] == f"NOT MEASURED {TITLE}: {POINTER[:-1]}; 4 checks not run"
    assert [line.split() for line in written[3:]] == [
        ["kl.change", "-", "<=", "+0.2", "-", "ERROR"], [],
    ]  # fmt: skip
    # A threshold that needs no baseline has the reason, even if it is the only one.
    two = replace(report, verdicts=(missing, report.verdicts[0]), contracts=(), pareto=None)
    assert lines(two)[0] == f"NOT MEASURED {TITLE}: {POINTER[:-1]}; 1 check not run"


def test_a_reason_of_several_lines_ends_with_the_number_of_checks() -> None:
    error: dict[str, Any] = {"value": None, "cause": "load", "message": "3 keys are unknown:\n  a"}
    report = replace(case_report(verdict("error", **error)), sample=None)
    assert lines(report) == [
        f"NOT MEASURED {TITLE}: 3 keys are unknown:", "    a; 1 check not run", "",
    ]  # fmt: skip


def test_an_error_of_a_single_threshold_stays_in_the_table() -> None:
    error = verdict("error", "kl.change", None, cause="setup", message="v9 is not a version")
    for verdicts in ((verdict("pass"), error), (error,)):
        written = lines(replace(case_report(*verdicts), sample=None))
        assert written[0] == TITLE
        assert written[-2].split() == ["kl.change", "-", "<=", "+0.2", "-", "ERROR"]


PASSING: list[Status] = ["pass"] * 10


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (contracts(*PASSING), "load contract: 10 of 10 checks passed"),
        (
            contracts("pass", "error", "undecided", "undecided"),
            "load contract BROKEN: load.keys failed; 1 passed, 2 not checked",
        ),
        (
            contracts("pass", "error", "error"),
            "load contract BROKEN: load.keys, load.shapes failed; 1 passed, 0 not checked",
        ),
        (
            contracts("pass", "pass", "error", cause="setup"),
            "load contract: 2 of 3 checks passed, 1 not checked",
        ),
    ],
)
def test_the_load_contract_is_one_line_above_the_table(
    parts: tuple[ContractResult, ...], line: str
) -> None:
    assert lines(case_report(contracts=parts)) == [TITLE, f"  {line}", ""]
    both = lines(case_report(verdict(), contracts=parts))
    assert both[:2] == [f"{TITLE}  16,256 tokens in 128 sequences", f"  {line}"]
    assert both[3].split() == ["kl", "0.4124", "0.022", "<=", "0.2", "-0.212", "FAIL"]
    assert "load." not in "".join(both[2:])


def test_controls_are_a_table_below_that_of_the_thresholds() -> None:
    both = lines(case_report(verdict(), contracts=contracts("pass"), controls=controls()))
    assert both[4:] == [
        "  controls              kl  reconstruction_score  l0",
        "  v3                0.4124                   0.9  16",
        "  random error        0.25                     -   -",
        "  permuted decoder   5.275                  -0.1  16",
        "",
    ]
    assert both[1:3] == ["  load contract: 1 of 1 checks passed", both[2]]
    assert both[3].split()[0] == "kl"


def test_a_null_model_that_is_not_beaten_is_a_warning() -> None:
    worse = lines(case_report(controls=controls("warn", message="KL 2 is not below 1")))
    assert worse[-2:] == ["  WARNING: KL 2 is not below 1", ""]
    error = controls("error", rows={}, cause="setup", message="no such hook")
    assert lines(case_report(controls=error))[1:] == [
        "  controls: no numbers (setup error): no such hook", "",
    ]  # fmt: skip


def test_changes_have_their_sign_and_their_baseline() -> None:
    both = a_change(
        target="l0.change", value=0.0, interval=(-0.024, 0.024),
        bounds={"min": -0.05, "max": 0.05, "relative": True},
    )  # fmt: skip
    noted = a_change("warn", noted=("torch was 2.12.0 and is 2.13.0",))
    rows = [line.split() for line in lines(case_report(a_change(), both, noted))]
    assert ["kl.change", "+60.61%", "2.4%", "<=", "+2%", "-58.6%", "FAIL"] in rows
    assert ["l0.change", "0%", "2.4%", "-5%..+5%", "+5%", "FAIL"] in rows
    assert any(" ".join(line).endswith("WARN (torch was 2.12.0 and is 2.13.0)") for line in rows)
    since = "  changes since v1.2 (97dbe6cef0cb), on the same sequences"
    assert lines(case_report(a_change(), both)).count(since) == 1


def test_pareto_is_below_the_table_and_a_pass_lists_records_left_out() -> None:
    failing = case_report(verdict(), pareto=ParetoResult(PARETO, "fail", COMPARISON))
    assert lines(failing)[-2] == (
        "  FAIL: pareto: dominated in l0 and kl by v2 "
        "(l0 15.98, here 16, +0.02; kl 0.13, here 0.21, +0.08)"
    )
    comparison = ParetoVerdict(PARETO, Point("v1", 16.0, 0.21), (Point("v3", 17.0, 0.3),), ("v0",))
    passing = case_report(pareto=ParetoResult(PARETO, "pass", comparison))
    assert lines(passing)[1:] == [
        "  pass: pareto: not dominated in l0 and kl (l0 16, kl 0.21; 1 record)",
        "    not compared: v0",
        "",
    ]
    error = ParetoResult(PARETO, "error", cause="setup", message="no record yet")
    assert lines(case_report(pareto=error))[1:] == [
        "  ERROR: pareto: no verdict (setup error): no record yet", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "line"),
    [
        ({}, None),
        ({"because": "asked for"}, None),
        ({"because": "k is 3"}, "  the whole model ran for every number: k is 3"),
        ({"clean run": "run"}, None),
        ({"clean run": "run, and not remembered: full"},
         "  clean run: run, and not remembered: full"),
        ({"clean run": "measured before"},
         "  reused from the cache: numbers of the same weights, tokens and code"),
    ],
)  # fmt: skip
def test_an_unusual_way_of_measuring_is_below_the_title(
    paths: dict[str, str], line: str | None
) -> None:
    provenance = replace(PROVENANCE, paths=paths)
    assert list(path_lines(provenance)) == ([line] if line else [])
    assert lines(case_report(verdict(), provenance=provenance))[1:-3] == ([line] if line else [])
    assert list(path_lines(None)) == []


def test_tests_without_a_verdict_are_listed_up_to_five() -> None:
    left_out = tuple(NotJudged(CASE, f"load.{n}", "was not run") for n in range(8))
    name = "thresholds/demo.yaml::blocks.2.hook_resid_post::"
    written = list(summary(run_report(not_judged=left_out[:2], verdict="error")))
    assert written == [
        f"NO VERDICT: {name}load.0[v3] was not run", f"NO VERDICT: {name}load.1[v3] was not run",
    ]  # fmt: skip
    many = list(summary(run_report(not_judged=left_out, verdict="error")))
    assert len(many) == 6
    assert many[-1] == "NO VERDICT: and 3 more"


def test_checkpoints_that_a_spec_excludes_are_listed_if_verbose() -> None:
    report = run_report(
        not_gated=(NotGated("a.yaml::x", None, "no checkpoint"), NotGated("a.yaml::y", "v1", "no"))
    )
    assert list(summary(report)) == ["not gated: a.yaml::x: no checkpoint"]
    assert list(summary(report, verbose=True)) == [
        "not gated: a.yaml::x: no checkpoint", "not gated: a.yaml::y [v1]: no",
    ]  # fmt: skip


def test_records_come_last_and_refused_ones_after_the_others() -> None:
    report = run_report(
        records=(
            RecordResult(CASE, refused="no verdict on kl"),
            RecordResult(CaseRef("a.yaml", "x", "v1"), path=".sae_guard/history/records/1"),
            RecordResult(None, refused="no checkpoint was gated"),
        )
    )
    assert list(summary(report)) == [
        "recorded: .sae_guard/history/records/1",
        f"NOT RECORDED: {TITLE}: no verdict on kl",
        "NOT RECORDED: no checkpoint was gated",
    ]


def test_loosened_thresholds_are_one_line_per_spec() -> None:
    cases = (
        case_report(loosened=LOOSENED),
        case_report(loosened=LOOSENED, member="v2"),
        replace(case_report(loosened=LOOSENED), case=CaseRef("a.yaml", "x", "v3")),
    )
    assert [line for line in lines(*cases) if line.startswith("LOOSER")] == [
        "LOOSER than at v1.2 (promoted 2026-11-25 by Ada Lovelace): "
        "thresholds/demo.yaml::blocks.2.hook_resid_post kl max 0.1 -> 0.2",
        "LOOSER than at v1.2 (promoted 2026-11-25 by Ada Lovelace): a.yaml::x kl max 0.1 -> 0.2",
    ]


def test_remarks_on_the_run_have_a_fixed_order() -> None:
    report = run_report(
        case_report(loosened=LOOSENED),
        not_judged=(NotJudged(CASE, "kl", "was not run"),),
        not_gated=(NotGated("a.yaml::x", None, "no checkpoint"),),
        records=(RecordResult(CASE, path="here"),),
        notes=("baseline none: left out 1 threshold",),
        warnings=("a promotion cannot be read",),
    )
    written = list(summary(report))
    assert written[:2] == [TITLE, ""]
    assert [line.partition(" ")[0] for line in written[2:]] == [
        "NO", "not", "baseline", "LOOSER", "WARNING:", "recorded:",
    ]  # fmt: skip
    assert list(summary(run_report())) == []
