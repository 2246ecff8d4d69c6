"""Verdicts and exit codes, the same however pytest is run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import get_args

import pytest

from sae_guard.core.metrics import METRICS
from sae_guard.errors import Contract
from tests.pytest_plugin.projects import CONTRACT, PARTS, Project, in_every_mode

PASSED = {"kl[good]": "pass", "l0[good]": "pass", "explained_variance[good]": "pass"}
FAILED = {"kl[bad]": "fail", "l0[bad]": "pass", "explained_variance[bad]": "fail"}


@in_every_mode
def test_a_good_sae_passes(project: Project, mode: tuple[str, ...]) -> None:
    result = project.run("--sae", "good", "--sae-json", "out.json", *mode)
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3)
    assert project.verdicts() == PASSED
    contract = {f"{part}[good]": "pass" for part in CONTRACT}
    assert list(project.verdicts("contract").items()) == list(contract.items())


@in_every_mode
def test_a_bad_sae_fails(project: Project, mode: tuple[str, ...]) -> None:
    result = project.run("--sae", "bad", "--sae-json", "out.json", *mode)
    assert result.ret == 1
    result.assert_outcomes(passed=PARTS + 1, failed=2)
    assert project.verdicts() == FAILED
    result.stdout.fnmatch_lines(
        [
            "kl * > 0.1 nats (95 % interval * to *, 112 tokens in 8 sequences)",
            "thresholds/tiny.yaml:6: kl: max 0.1",
            "thresholds/tiny.yaml::tiny [[]bad]  112 tokens in 8 sequences",
            "  load contract: 10 of 10 checks passed",
            "  metric * value * bound * headroom * verdict",
            "  kl * <= 0.1 * FAIL",
            "  l0 * 1..40 * pass",
            "FAILED thresholds/tiny.yaml::tiny::kl[[]bad] - kl * > 0.1 *",
        ]
    )


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param((), id="plain"),
        pytest.param(("-n2", "--dist", "loadfile"), id="-n2", marks=pytest.mark.slow),
    ],
)
def test_a_nan_is_never_a_pass(project: Project, workers: tuple[str, ...]) -> None:
    damage = """
        import torch
        from sae_guard.engine import token_metrics as tokens

        tokens.kl_divergence = lambda p, q: torch.full(p.shape[:-1], float("nan"))
        """
    result = project.run_damaged(damage, "--sae", "good", "--sae-json", "out.json", *workers)
    assert result.ret == 2
    assert project.verdicts() == {**PASSED, "kl[good]": "error"}
    result.stdout.fnmatch_lines(["*kl: no verdict (load error): kl = *not finite*"])


def test_the_json_file_is_strict_json_with_the_whole_report(project: Project) -> None:
    project.run("--sae", "bad", "--sae-json", "made/out.json")
    text = (project.path / "made/out.json").read_text()
    document = json.loads(text, parse_constant=pytest.fail)
    assert (document["schema_version"], document["verdict"], document["exit_code"]) == (
        2,
        "fail",
        1,
    )
    (case,) = document["cases"]
    assert case["case"] == {
        "spec_file": "thresholds/tiny.yaml", "document": "tiny", "member": "bad",
    }  # fmt: skip
    assert [part["contract"] for part in case["contracts"]] == [*get_args(Contract)]
    first = case["verdicts"][0]
    assert first["threshold"]["target"] == "kl"
    assert (first["threshold"]["max"], first["status"], first["passes"]) == (0.1, "fail", False)
    assert first["estimate"]["low"] < first["estimate"]["value"] < first["estimate"]["high"]
    assert first["headroom"] == 0.1 - first["estimate"]["value"]
    assert case["provenance"]["checkpoint"]["path"] == str(project.path / "bad")
    assert [metric["target"] for metric in case["metrics"]] == [*METRICS]
    assert len(case["worst"]["tokens"]) == 10


def test_junit_has_the_verdict_as_properties(project: Project) -> None:
    project.run("--sae", "bad", "--junitxml", "junit.xml")
    case = ET.parse(project.path / "junit.xml").getroot().find(".//testcase[@name='kl[bad]']")
    assert case is not None
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["sae_guard.metric"] == "kl"
    assert properties["sae_guard.verdict"] == "fail"
    assert float(properties["sae_guard.value"] or "") > 0.1
    assert {"sae_guard.low", "sae_guard.high", "sae_guard.bound"} <= properties.keys()
    failure = case.find("failure")
    assert failure is not None
    assert str(failure.get("message")).startswith("kl ")


def test_a_warning_passes_and_is_in_the_summary(project: Project) -> None:
    project.write_spec(project.spec.replace("max: 40", "max: 40, warn: {max: 3}"))
    result = project.run("--sae", "good")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["  l0 * 1..40 * WARN"])


def test_controls_run_beside_the_checkpoint(project: Project) -> None:
    result = project.run("--sae", "bad", "--sae-controls", "--sae-json", "out.json")
    assert result.ret != 0
    verdicts = project.verdicts()
    assert verdicts["kl[control:identity]"] == "pass"
    result.stdout.fnmatch_lines(["*[[]control:identity]*", "*[[]control:zero]*"])


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param((), id="plain"),
        pytest.param(("-n2", "--dist", "load"), id="-n2", marks=pytest.mark.slow),
    ],
)
def test_each_case_is_measured_once(project: Project, workers: tuple[str, ...]) -> None:
    """Each case is measured by one process, and its tests share the measurement."""
    damage = """
        from pathlib import Path
        from sae_guard import engine

        measure = engine.measure

        def counted(*args, **kwargs):
            with Path("count.txt").open("a") as file:
                file.write("measured\\n")
            return measure(*args, **kwargs)

        engine.measure = counted
        """
    result = project.run_damaged(damage, "--sae", "good", "--sae", "bad", *workers)
    result.assert_outcomes(passed=2 * PARTS + 4, failed=2)
    assert (project.path / "count.txt").read_text().splitlines() == ["measured"] * 2


@pytest.mark.parametrize(("then", "code"), [("fail", 1), ("warn", 0)])
def test_an_interval_around_the_bound_passes_only_if_the_spec_says_so(
    project: Project, mode: tuple[str, ...], then: str, code: int
) -> None:
    """The KL of the bad SAE is 0.874 ± 0.024."""
    bounds = f"kl: {{max: 0.88, confidence: 0.99, on_undecided: {then}}}\n"
    project.write_spec(project.spec.partition("thresholds:")[0] + f"thresholds:\n  {bounds}")
    result = project.run("--sae=bad", "--sae-json=out.json", *mode)
    assert result.ret == code
    assert project.verdicts() == {"kl[bad]": "undecided"}
    assert project.report().verdict == ("fail" if code else "pass")
    result.stdout.fnmatch_lines(["  kl * UNDECIDED"])
    if code:
        result.stdout.fnmatch_lines(
            ["kl 0.874 against max 0.88 nats is undecided: the 0.99 interval * would do"]
        )
