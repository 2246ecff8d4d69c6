"""Properties of JUnit XML: flat builtins under stable names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from sae_guard.core.report import CaseReport, ContractResult, ParetoResult
from sae_guard.core.verdicts import Progress
from sae_guard.render.junit import junit_properties
from tests.helpers.reports import (
    COMPARISON,
    PARETO,
    PROVENANCE,
    WORST,
    a_change,
    case_report,
    case_reports,
    contracts,
    controls,
    verdict,
)

PLACE = {
    "sae_guard.spec": "thresholds/demo.yaml",
    "sae_guard.name": "blocks.2.hook_resid_post",
    "sae_guard.checkpoint": "v3",
}


def properties(report: CaseReport) -> dict[str, Any]:
    """Give the properties by name; each must be there once."""
    listed = junit_properties(report)
    assert len({name for name, _ in listed}) == len(listed)
    return dict(listed)


@given(case_reports())
def test_all_are_flat_builtins_that_cross_processes(report: CaseReport) -> None:
    listed = junit_properties(report)
    for name, value in listed:
        assert name.startswith("sae_guard.")
        assert type(value) in (str, int, float)
        assert value != ""
    assert repr([tuple(pair) for pair in json.loads(json.dumps(listed))]) == repr(listed)


def test_a_threshold_has_its_value_bounds_and_sample() -> None:
    assert properties(case_report(verdict(cause="load", marginal="near"))) == {
        **PLACE,
        "sae_guard.metric": "kl",
        "sae_guard.kind": "threshold",
        "sae_guard.verdict": "fail",
        "sae_guard.cause": "load",
        "sae_guard.unit": "nats",
        "sae_guard.max": 0.2,
        "sae_guard.where": "thresholds/demo.yaml:14",
        "sae_guard.marginal": "near",
        "sae_guard.value": 0.41239,
        "sae_guard.low": 0.39,
        "sae_guard.high": 0.43478,
        "sae_guard.confidence": 0.95,
        "sae_guard.n_tokens": 16256,
        "sae_guard.n_sequences": 128,
        "sae_guard.side": "max",
        "sae_guard.bound": 0.2,
        "sae_guard.headroom": 0.2 - 0.41239,
    }


def test_a_test_without_a_value_has_only_the_reason() -> None:
    error = verdict("error", value=None, cause="setup", message="0/0")
    listed = properties(case_report(error))
    assert (listed["sae_guard.verdict"], listed["sae_guard.message"]) == ("error", "0/0")
    assert not {"sae_guard.value", "sae_guard.headroom", "sae_guard.bound"} & listed.keys()


def test_an_early_verdict_has_its_number_of_sequences() -> None:
    listed = properties(case_report(verdict(progress=Progress(64, 256, 0.001), audit="held")))
    assert listed["sae_guard.seen_sequences"] == 64
    assert listed["sae_guard.of_sequences"] == 256
    assert listed["sae_guard.alpha"] == 0.001
    assert listed["sae_guard.audit"] == "held"


def test_a_change_has_both_values_and_its_baseline() -> None:
    listed = properties(case_report(a_change(noted=("torch", "device"))))
    assert listed["sae_guard.change"] == "share"
    assert (listed["sae_guard.before"], listed["sae_guard.after"]) == (0.1306, 0.20976)
    assert listed["sae_guard.baseline"] == "v1.2 (97dbe6cef0cb)"
    assert listed["sae_guard.p_value"] == 1e-120
    assert listed["sae_guard.note"] == "torch; device"
    plain = properties(case_report(verdict()))
    assert not {"sae_guard.change", "sae_guard.baseline", "sae_guard.note"} & plain.keys()


def test_on_undecided_is_there_if_the_threshold_has_a_confidence() -> None:
    assert "sae_guard.on_undecided" not in properties(case_report(verdict()))
    waived = verdict(bounds={"max": 0.2, "confidence": 0.9, "on_undecided": "warn"})
    assert properties(case_report(waived))["sae_guard.on_undecided"] == "warn"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            case_report(contracts=(ContractResult("keys", "error", "load", "W_dec is missing"),)),
            ("load.keys", "contract", "error", "load", "W_dec is missing"),
        ),
        (case_report(contracts=contracts("pass")), ("load.readable", "contract", "pass", None, "")),
        (
            case_report(pareto=ParetoResult(PARETO, "fail", COMPARISON)),
            ("pareto", "pareto", "fail", None, ""),
        ),
        (
            case_report(controls=controls("warn", message="KL 2 is not below 1")),
            ("controls", "controls", "warn", None, "KL 2 is not below 1"),
        ),
    ],
)
def test_other_tests_have_their_status_and_the_reason(
    report: CaseReport, expected: tuple[str | None, ...]
) -> None:
    names = ("metric", "kind", "verdict", "cause", "message")
    pairs = zip(names, expected, strict=True)
    assert properties(report) == {**PLACE, **{f"sae_guard.{k}": v for k, v in pairs if v}}


def test_long_parts_are_only_in_the_report() -> None:
    short = properties(case_report(verdict()))
    assert properties(case_report(verdict(), worst=WORST, provenance=PROVENANCE)) == short


def test_numbers_of_numpy_become_builtins() -> None:
    listed = properties(case_report(verdict(value=np.float64(0.5))))
    assert (type(listed["sae_guard.value"]), listed["sae_guard.value"]) == (float, 0.5)
    assert {type(value) for value in listed.values()} <= {str, int, float}


@pytest.mark.parametrize(
    "parts", [{"value": np.float32(0.5)}, {"value": np.int64(1)}, {"message": object()}]
)
def test_a_value_that_is_no_builtin_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="cannot cross processes"):
        junit_properties(case_report(verdict(**parts)))
