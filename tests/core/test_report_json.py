"""Reports survive JSON, which is strict and described by its schema."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sae_guard.core.comparison import Change
from sae_guard.core.diagnosis import Diagnosis, Suspicion
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseReport, MetricValue, ParetoResult, RunReport, verdict_of
from sae_guard.core.report_json import (
    SCHEMA_VERSION,
    from_plain,
    json_schema,
    report_from_json,
    report_to_json,
    to_plain,
)
from sae_guard.core.statistics import Estimate
from sae_guard.core.targets import Target
from sae_guard.core.verdicts import Progress, Verdict, judge
from sae_guard.core.worst_tokens import Worst, worst
from sae_guard.errors import SetupError
from sae_guard.testing import measurements, thresholds
from tests.helpers.reports import (
    COMPARISON,
    LOOSENED,
    PARETO,
    PROVENANCE,
    ROWS,
    WORST,
    a_change,
    case_report,
    case_reports,
    contracts,
    controls,
    run_report,
    run_reports,
    verdict,
)

SCHEMA = Draft202012Validator(json_schema())


def refuse(constant: str) -> None:
    raise AssertionError(constant)


def written(report: RunReport) -> dict[str, Any]:
    """Write a report, and read it as any other program would."""
    document: dict[str, Any] = json.loads(report_to_json(report), parse_constant=refuse)
    return document


@given(run_reports)
def test_reports_survive_json(report: RunReport) -> None:
    again = report_from_json(report_to_json(report), file="report.json")
    assert repr(again) == repr(report)  # NaN is NaN, and −0 is not 0
    assert report_to_json(again) == report_to_json(report)


@given(run_reports)
def test_the_json_is_strict_and_as_its_schema_says(report: RunReport) -> None:
    SCHEMA.validate(written(report))


@given(case_reports())
def test_a_part_of_a_report_survives_to_plain_and_from_plain(report: CaseReport) -> None:
    text = json.dumps(to_plain(CaseReport, report), allow_nan=False)
    assert text.isascii()
    assert repr(from_plain(CaseReport, json.loads(text), source="x")) == repr(report)


FULL = run_report(
    case_report(
        verdict("warn", value=math.inf, progress=Progress(64, 128, 0.001), audit="held"),
        a_change(noted=("torch was 2.12.0",)),
        verdict("error", "l0", None, cause="load", message="0/0"),
        provenance=PROVENANCE,
        contracts=contracts("pass", "error"),
        metrics=(MetricValue(Target("kl"), Estimate(0.1, None, None, 9, 1)),
                 MetricValue(Target("mse"), undefined="0/0")),
        pareto=ParetoResult(PARETO, "fail", COMPARISON),
        controls=controls(),
        diagnosis=Diagnosis((Suspicion("k", "L0", "this", (("k", "3"),)),), ("tried",)),
        worst=WORST,
        loosened=LOOSENED,
    )
)  # fmt: skip


def test_every_part_survives_with_its_type() -> None:
    again = report_from_json(report_to_json(FULL), file="report.json")
    assert repr(again) == repr(FULL)
    (case,) = again.cases
    assert isinstance(case.verdicts[1].change, Change)
    assert isinstance(case.worst, Worst)
    assert case.pareto is not None
    assert case.pareto.comparison is not None
    assert [point.name for point in case.pareto.comparison.dominated_by] == ["v2"]


@given(st.lists(measurements(), max_size=2), st.sampled_from(sorted(METRICS)), st.data())
def test_measured_and_judged_values_survive_json(
    measured: list[Measurement], name: str, data: st.DataObject
) -> None:
    cases = [
        case_report(
            judge(m, data.draw(thresholds(name))), provenance=m.provenance, worst=worst(m)
        )
        for m in measured
    ]  # fmt: skip
    report = run_report(*cases, verdict=verdict_of(cases))
    assert report_from_json(report_to_json(report), file="report.json") == report


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    (case,) = written(run_report(case_report(verdict(value=np.float64(0.5)))))["cases"]
    assert case["verdicts"][0]["estimate"]["value"] == 0.5
    (case,) = written(run_report(case_report(verdict(value=np.float64("nan")))))["cases"]
    assert case["verdicts"][0]["estimate"]["value"] == "NaN"


def test_nan_and_infinities_are_written_as_texts() -> None:
    (case,) = written(
        run_report(
            case_report(
                *(verdict("error", name, value) for name, value in NOT_FINITE.items()),
                provenance=PROVENANCE,
            ),
            verdict="error",
        )
    )["cases"]
    verdicts = {plain["threshold"]["target"]: plain for plain in case["verdicts"]}
    assert {name: plain["estimate"]["value"] for name, plain in verdicts.items()} == {
        "kl": "NaN", "l0": "Infinity", "fvu": "-Infinity",
    }  # fmt: skip
    assert {name: plain["headroom"] for name, plain in verdicts.items()} == {
        "kl": "NaN", "l0": "-Infinity", "fvu": "Infinity",
    }  # fmt: skip
    assert [plain["threshold"]["max"] for plain in case["verdicts"]] == [0.2] * 3
    assert case["provenance"]["hook"] == "blocks.2.hook_resid_post"


NOT_FINITE = {"kl": math.nan, "l0": math.inf, "fvu": -math.inf}


def test_json_verdicts_have_unit_headroom_and_passes() -> None:
    document = written(run_report(case_report(verdict(), a_change(), verdict("pass", "l0", None))))
    kl, change, l0 = document["cases"][0]["verdicts"]
    assert (kl["unit"], kl["headroom"], kl["passes"]) == ("nats", 0.2 - 0.41239, False)
    assert (change["unit"], change["passes"]) == ("", False)  # a share has no unit
    assert (l0["unit"], l0["headroom"], l0["passes"]) == ("latents/token", None, True)
    kl["passes"], kl["headroom"] = True, 9.0
    (case,) = report_from_json(json.dumps(document).encode(), file="x").cases
    assert (case.verdicts[0].passes, case.verdicts[0].headroom) == (False, 0.2 - 0.41239)


def test_the_json_has_both_ends_of_a_change() -> None:
    (case,) = written(run_report(case_report(a_change())))["cases"]
    (row,) = case["verdicts"]
    assert (row["change"]["before"], row["change"]["after"]) == (0.1306, 0.20976)
    assert row["threshold"]["relative"] is True


def test_the_json_has_the_numbers_of_the_controls() -> None:
    document = written(run_report(case_report(controls=controls()), case_report(verdict())))
    one, other = document["cases"]
    assert (one["controls"]["rows"], other["controls"]) == (ROWS, None)


def test_the_json_has_the_worst_tokens_of_a_case() -> None:
    document = written(
        run_report(
            case_report(verdict("pass"), member="v2", worst=WORST),
            case_report(verdict(), verdict(target="l0"), worst=WORST),
        )
    )
    assert [case["case"]["member"] for case in document["cases"]] == ["v2", "v3"]
    case = document["cases"][1]
    assert case["case"]["spec_file"] == "thresholds/demo.yaml"
    assert case["case"]["document"] == "blocks.2.hook_resid_post"
    first, second = case["worst"]["tokens"]
    assert (first["kl"], first["token"], first["source"]) == (9.3121, "ed", "arxiv/1.txt")
    assert (second["kl"], second["ce_clean"], second["ce_patched"]) == ("NaN", 2.0, "Infinity")
    assert case["worst"]["sequences"][0]["n_tokens"] == 1260
    assert not any("worst" in row for row in case["verdicts"])


def test_the_json_has_loosened_thresholds() -> None:
    document = written(run_report(case_report(loosened=LOOSENED), case_report()))
    assert [case["loosened"] for case in document["cases"]] == [
        {
            "label": "v1.2",
            "record": "20261125T103000Z-v1.2-0123456789ab",
            "promoted": "2026-11-25T10:30:00+00:00",
            "by": "Ada Lovelace",
            "changes": [
                {"threshold": "kl", "key": "max", "old": 0.1, "new": 0.2, "change": "loosened",
                 "looser": True, "share": False},
            ],
        },
        None,
    ]  # fmt: skip


def test_a_value_without_a_threshold_is_never_a_pass() -> None:
    report = run_report(case_report(metrics=(MetricValue(Target("kl"), undefined="0/0"),)))
    document = written(report)
    (case,) = document["cases"]
    assert case["verdicts"] == []
    assert case["metrics"] == [{"target": "kl", "estimate": None, "undefined": "0/0"}]
    case["metrics"][0] |= {"passes": True, "status": "pass"}
    (again,) = report_from_json(json.dumps(document).encode(), file="x").cases
    assert again.metrics == report.cases[0].metrics
    assert again.statuses == {}
    assert verdict_of([again]) == "error"


GOOD = json.loads(report_to_json(FULL))


def changed(*path: str | int, value: Any = None) -> bytes:
    """Give the JSON with another value at this place."""
    document = json.loads(json.dumps(GOOD))
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON: "),
        (b"\xff", "not JSON: "),
        (b"[" * 100_000, "not JSON: "),
        (b'{"schema_version": 2, "cases": [Infinity]}', "not JSON: Infinity is no number of JSON"),
        (b"[]", "not a report of sae_guard: it has no `schema_version`"),
        (b"{}", "not a report of sae_guard: it has no `schema_version`"),
        (changed("schema_version", value=1), "`schema_version` is 1, allowed: 2; run the gate"),
        (changed("schema_version", value=3), "`schema_version` is 3, allowed: 2; run the gate"),
        (changed("schema_version"), "`schema_version` is None, allowed: 2; run the gate"),
    ],
)
def test_data_that_is_no_report_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(SetupError) as caught:
        report_from_json(data, file="out.json")
    assert str(caught.value).startswith(f"out.json: {message}")


CASE_AT = ("cases", 0)
VERDICT_AT = (*CASE_AT, "verdicts", 0)
THRESHOLD_AT = (*VERDICT_AT, "threshold")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("cases",), {}, "`cases`: "),
        (("cases",), [[]], "`cases.0`: Input should be a dictionary"),
        (("verdict",), "passed", "`verdict`: Input should be 'pass', 'fail' or 'error'"),
        (("exit_code",), "0", "`exit_code` is '0', expected a number"),
        (("exit_code",), True, "`exit_code` is True, expected a number"),
        (("exit_code",), 0.5, "`exit_code`: "),
        ((*CASE_AT, "case", "member"), None, "`cases.0.case.member`: Input should be a valid str"),
        ((*CASE_AT, "case"), {}, "`cases.0.case.spec_file`: "),
        ((*VERDICT_AT, "status"), "passed", "`cases.0.verdicts.0.status`: Input should be 'pass'"),
        ((*VERDICT_AT, "cause"), "luck", "`cases.0.verdicts.0.cause`: "),
        ((*VERDICT_AT, "estimate", "value"), "0.1", "`cases.0.verdicts.0.estimate.value` is '0.1'"),
        ((*VERDICT_AT, "estimate", "low"), True, "`cases.0.verdicts.0.estimate.low` is True, "),
        ((*VERDICT_AT, "estimate", "n_tokens"), 1.5, "`cases.0.verdicts.0.estimate.n_tokens`: "),
        ((*VERDICT_AT, "estimate", "value"), [], "`cases.0.verdicts.0.estimate.value`: "),
        ((*THRESHOLD_AT, "target"), 3, "`cases.0.verdicts.0.threshold.target`: Value error, 3 is"),
        ((*THRESHOLD_AT, "target"), None, "`cases.0.verdicts.0.threshold.target`: Value error, N"),
        ((*THRESHOLD_AT, "target"), [], "`cases.0.verdicts.0.threshold.target`: Value error, []"),
        ((*THRESHOLD_AT, "target"), {}, "`cases.0.verdicts.0.threshold.target`: Value error, {}"),
        ((*THRESHOLD_AT, "target"), "kll", "`cases.0.verdicts.0.threshold.target`: Value error, u"),
        ((*THRESHOLD_AT, "target"), "kl@a", "`cases.0.verdicts.0.threshold.target`: Value error,"),
        ((*THRESHOLD_AT, "max"), None, "`cases.0.verdicts.0.threshold`: Value error, threshold on"),
        ((*THRESHOLD_AT, "relative"), True, "`cases.0.verdicts.0.threshold`: Value error, thresh"),
        ((*CASE_AT, "metrics", 0, "target"), 3, "`cases.0.metrics.0.target`: Value error, 3 is no"),
        ((*CASE_AT, "metrics", 0, "target"), "kl.median", "`cases.0.metrics.0.target`: Value err"),
        ((*CASE_AT, "contracts", 0, "contract"), "x", "`cases.0.contracts.0.contract`: Input sho"),
        ((*CASE_AT, "diagnosis", "suspicions", 0, "name"), "x", "`cases.0.diagnosis.suspicions.0`"),
        ((*CASE_AT, "loosened", "promoted"), "soon", "`cases.0.loosened.promoted`: "),
        ((*CASE_AT, "controls", "rows", "checkpoint", "kl"), "1", "`cases.0.controls.rows.checkp"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_its_key(
    path: tuple[str | int, ...], value: Any, message: str
) -> None:
    with pytest.raises(SetupError) as caught:
        report_from_json(changed(*path, value=value), file="out.json")
    assert str(caught.value).startswith(f"out.json: {message}")


def test_a_value_that_its_class_refuses_is_refused_with_the_file() -> None:
    path = (*CASE_AT, "pareto", "comparison", "point", "x")
    with pytest.raises(SetupError, match=r"^out\.json: v1 is at nan, 0\.21: both .* finite$"):
        report_from_json(changed(*path, value="NaN"), file="out.json")


def test_a_missing_key_is_named() -> None:
    document = json.loads(json.dumps(GOOD))
    del document["cases"][0]["verdicts"][0]["status"]
    with pytest.raises(SetupError, match=r"`cases\.0\.verdicts\.0\.status`: Field required"):
        report_from_json(json.dumps(document).encode(), file="out.json")


def with_unknown_keys(plain: Any) -> Any:
    """Add a key to every object but those whose keys are names."""
    if isinstance(plain, list):
        return [with_unknown_keys(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    mappings = ("provenance", "rows")
    parts = {k: v if k in mappings else with_unknown_keys(v) for k, v in plain.items()}
    return {**parts, "added_later": {"a": 1}}


def test_unknown_keys_are_ignored() -> None:
    data = json.dumps(with_unknown_keys(GOOD)).encode()
    assert repr(report_from_json(data, file="x")) == repr(
        report_from_json(report_to_json(FULL), file="x")
    )


def test_a_report_of_a_version_that_had_fewer_keys_is_read() -> None:
    older = {"name": "scale", "evidence": "‖x̂‖", "remedy": "this"}
    plain = {"suspicions": [older]}
    assert from_plain(Diagnosis, plain, source="x") == Diagnosis(
        (Suspicion("scale", "‖x̂‖", "this"),)
    )
    bare = {"schema_version": SCHEMA_VERSION, "sae_guard": "0", "verdict": "error", "exit_code": 2}
    assert report_from_json(json.dumps(bare).encode(), file="x") == RunReport("0", "error", 2)


def test_paths_that_are_no_utf8_survive_as_keys_too() -> None:
    files = {"\udcff.safetensors": "1" * 64}
    report = run_report(
        case_report(
            provenance=Provenance(
                model={}, checkpoint={"files": files}, corpus={}, hook="\udc80", mean_sha256="",
                formula_versions={}, versions={}, device="cpu",
            )
        )
    )  # fmt: skip
    data = report_to_json(report)
    data.decode("utf-8")
    assert report_from_json(data, file="x") == report


def test_a_number_may_be_written_without_a_point() -> None:
    (case,) = report_from_json(changed(*VERDICT_AT, "estimate", "value", value=1), file="x").cases
    assert repr(case.verdicts[0].value) == "1.0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 1),
        (("verdict",), "passed"),
        ((*VERDICT_AT, "estimate", "value"), "0.1"),
        ((*VERDICT_AT, "headroom"), "much"),
        ((*VERDICT_AT, "passes"), 1),
        ((*THRESHOLD_AT, "target"), 3),
        ((*CASE_AT, "sample"), 3),
    ],
)
def test_the_schema_refuses_reports_that_the_reader_refuses(
    path: tuple[str | int, ...], value: Any
) -> None:
    assert SCHEMA.is_valid(GOOD)
    assert not SCHEMA.is_valid(json.loads(changed(*path, value=value)))


def test_the_schema_is_one_and_describes_every_part() -> None:
    Draft202012Validator.check_schema(json_schema())
    definitions = json_schema()["$defs"]
    assert {"CaseReport", "Verdict", "Threshold", "MetricValue", "Worst"} <= definitions.keys()
    assert set(definitions["Verdict"]["properties"]) == {
        *Verdict.__dataclass_fields__, "unit", "headroom", "passes",
    }  # fmt: skip
    assert '"type": "number"' in json.dumps(definitions["Number"])
    assert json.dumps(json_schema()).count('"type": "number"') == 1
