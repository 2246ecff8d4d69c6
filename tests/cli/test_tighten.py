"""``sae-guard tighten --from``: from the report of a run to the spec."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sae_guard.cli import main
from sae_guard.core.measurement import Provenance
from sae_guard.core.metrics import METRICS
from sae_guard.core.report import CaseRef, CaseReport, ContractResult, ControlsResult, RunReport
from sae_guard.core.report_json import report_to_json
from sae_guard.core.statistics import Estimate
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import Progress, Status, Verdict
from sae_guard.specs import load_specs

SPEC = """\
# Bounds of the release.\r
name: layer 8\r
model: gpt2\r
hook: blocks.8.hook_resid_pre\r
data: {text: a.txt, prepend_bos: true, expect_clean_ce: [1, 9]}\r
thresholds:\r
  kl: {max: 0.25, warn: 0.23, p99: {max: 2}}  # max: 0.25 was v1's\r
  l0: {min: 8, max: 24}\r
slices:\r
- {position: ..8, thresholds: {kl: {max: "0.5"}}}\r
---
hook: blocks.9.hook_resid_pre
model: gpt2
data: {text: a.txt, prepend_bos: true}
thresholds: {cosine: {min: 0.5}}""".replace('"0.5"', "0.5")

PROVENANCE = Provenance(
    model={"name": "gpt2", "processing": "raw", "dtype": "float32"},
    checkpoint={},
    corpus={
        "source": {
            "text": ["a.txt"], "context": 128, "sequences": 256, "prepend_bos": True,
            "special_tokens": "exclude", "seed": 0, "expect_clean_ce": [1.0, 9.0],
        }
    },
    hook="blocks.8.hook_resid_pre",
    mean_sha256="",
    formula_versions={name: metric.version for name, metric in METRICS.items()},
    versions={},
    device="cpu",
)  # fmt: skip


def verdict(target: str, value: float | None, status: Status = "pass", **more: Any) -> Verdict:
    """Give a value, or none, to a target; more is of the verdict."""
    estimate = None if value is None else Estimate(value, None, None, 9, 256)
    return Verdict(Threshold(target, max=9.0), status, **{"estimate": estimate, **more})


def case(
    *verdicts: Verdict,
    member: str = "v2",
    document: str = "layer 8",
    file: str = "thresholds/s.yaml",
    **parts: Any,
) -> CaseReport:
    """Report a case with these verdicts."""
    ref = CaseRef(file, document, member)
    return CaseReport(ref, verdicts=verdicts, **{"provenance": PROVENANCE, **parts})


VALUES = (
    verdict("kl", 0.1306),
    verdict("kl.p99", 1.25),
    verdict("l0", 15.98),
    verdict("kl@position=0..8", 0.2),
)
FINITE = (ContractResult("finite", "pass"),)
ELSEWHERE = case(verdict("kl", 0.3), member="v9", file="other/s.yaml")
RUN = [case(*VALUES, contracts=FINITE), ELSEWHERE]


class ReportProject:
    def __init__(self, folder: Path) -> None:
        self.spec = folder / "thresholds" / "s.yaml"
        self.spec.parent.mkdir()
        self.spec.write_bytes(SPEC.encode())
        self.out = folder / "out.json"

    def tighten(self, cases: list[CaseReport], *options: str) -> tuple[int, str]:
        self.out.write_bytes(report_to_json(RunReport("0", "pass", 0, tuple(cases))))
        return self.run(*options)

    def run(self, *options: str) -> tuple[int, str]:
        arguments = ["tighten", str(self.spec), "--from", str(self.out), *options]
        result = CliRunner().invoke(main, arguments)
        output = result.output.replace(f"{self.spec.parents[1]}/", "")
        return result.exit_code, output


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def project(tmp_path: Path) -> ReportProject:
    return ReportProject(tmp_path)


TIGHT = (
    SPEC.replace("{max: 0.25, warn: 0.23, p99", "{max: 0.138, warn: 0.134, p99")
    .replace("{max: 2}", "{max: 1.32}")
    .replace("{min: 8, max: 24}", "{min: 15, max: 17}")
    .replace("{max: 0.5}", "{max: 0.21}")
)  # fmt: skip


def test_bounds_move_to_measured_values_and_nothing_else_changes(project: ReportProject) -> None:
    project.spec.chmod(0o640)
    code, output = project.tighten(RUN)
    assert code == 0
    assert output == (
        "thresholds/s.yaml::layer 8  margin 5%\n"
        "  bound                 measured   old  new\n"
        "  kl max                  0.1306  0.25  0.138\n"
        "  kl warn max                     0.23  0.134\n"
        "  kl.p99 max                1.25     2  1.32\n"
        "  l0 min                   15.98     8  15\n"
        "  l0 max                   15.98    24  17\n"
        "  kl@position=0..8 max       0.2   0.5  0.21\n"
        "\n"
        "thresholds/s.yaml::blocks.9.hook_resid_pre  kept: not measured\n"
        "\n"
        "thresholds/s.yaml: 6 bounds tightened\n"
    )
    assert project.spec.read_bytes() == TIGHT.encode()
    assert project.spec.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in project.spec.parent.iterdir()] == ["s.yaml"]
    code, output = project.tighten(RUN)
    assert code == 0
    assert output.endswith("thresholds/s.yaml: no bound changes\n")
    assert project.spec.read_bytes() == TIGHT.encode()


def test_dry_run_shows_the_difference_and_writes_nothing(project: ReportProject) -> None:
    code, output = project.tighten([case(VALUES[0])], "--dry-run", "--margin", "0.5")
    assert code == 0
    assert "kl.p99 max 2 kept: not measured" in words(output)
    assert "2 bounds tightened, nothing is written\n--- thresholds/s.yaml\n+++" in output
    changed = [line for line in output.splitlines() if line.startswith(("-", "+"))][2:]
    assert changed == [
        "-  kl: {max: 0.25, warn: 0.23, p99: {max: 2}}  # max: 0.25 was v1's",
        "+  kl: {max: 0.196, warn: 0.181, p99: {max: 2}}  # max: 0.25 was v1's",
    ]
    assert project.spec.read_bytes() == SPEC.encode()


def test_bounds_hold_for_all_checkpoints_or_the_selected_one(project: ReportProject) -> None:
    first = case(verdict("kl", 0.2), verdict("kl.p99", 0.5), member="v1")
    both = [case(*VALUES[:2]), first]
    code, output = project.tighten(both, "--dry-run")
    assert code == 0
    assert "  kl max                v1               0.2  0.25  0.21\n" in output
    assert "  kl.p99 max            v2              1.25     2  1.32\n" in output
    code, output = project.tighten(both, "--dry-run", "--checkpoint", "v2")
    assert "  kl max                  0.1306  0.25  0.138\n" in output
    code, output = project.tighten(both, "--checkpoint", "v3")
    assert (code, output) == (1, "Error: out.json has no checkpoint 'v3'; allowed: v1, v2\n")
    code, output = project.tighten(
        [both[0], dataclasses.replace(first, verdicts=first.verdicts[:1])]
    )
    assert (code, output) == (
        1, "Error: out.json has layer 8::kl.p99 of v2 and not of v1; choose by --checkpoint\n"
    )  # fmt: skip


def test_loosening_a_bound_needs_a_reason(project: ReportProject) -> None:
    good = verdict("l0", 23.5)
    failed = [case(verdict("kl", 0.3, "fail"), good)]
    code, output = project.tighten(failed)
    assert code == 1
    assert (
        "s.yaml:7: kl of v2 is 0.3, which crosses max 0.25\nbounds are tightened to what" in output
    )
    code, output = project.tighten([case(good)], "--dry-run")
    assert "l0 max 23.5 24 kept: would be 25, which is looser" in words(output)
    for options in (["--allow-loosen"], ["--reason", "x"], ["--allow-loosen", "--reason", " "]):
        code, output = project.tighten(failed, *options)
        assert code == 2
        assert "--allow-loosen and --reason go together; say why" in output
    assert project.spec.read_bytes() == SPEC.encode()
    code, output = project.tighten(failed, "--allow-loosen", "--reason", "a wider dictionary")
    assert code == 0
    assert output.endswith(
        "1 bound tightened, 3 bounds loosened\nloosened because: a wider dictionary\n"
    )
    assert b"{max: 0.315, warn: 0.308, p99" in project.spec.read_bytes()
    assert b"{min: 22, max: 25}" in project.spec.read_bytes()


def changed(**values: Any) -> CaseReport:
    """Report a value of KL with these parts of the provenance replaced."""
    return case(VALUES[0], provenance=dataclasses.replace(PROVENANCE, **values))


def failing_zero(**parts: Any) -> CaseReport:
    """Return the report of a control whose threshold is crossed."""
    verdict_on_zero = verdict("reconstruction_score", 0.5, "fail", **parts)
    return case(verdict_on_zero, member="control:zero")


OTHER = {"source": {**PROVENANCE.corpus["source"], "sequences": 8}}
EARLY = Progress(64, 256, 0.001)


@pytest.mark.parametrize(
    ("unusable", "message"),
    [
        (case(verdict("kl", None, "error", cause="setup", message="0/0")),
         "thresholds/s.yaml::layer 8::kl[v2] is an error and has no value: 0/0"),
        (case(VALUES[0], contracts=(ContractResult("finite", "error", "load", "NaN"),)),
         "thresholds/s.yaml::layer 8::load.finite[v2] is an error and has no value: NaN"),
        (case(VALUES[0], contracts=(ContractResult("finite", "undecided", "load", "no file"),)),
         "load.finite[v2] is an error and has no value: no file"),
        (failing_zero(), "[control:zero] is fail, so no number of this run"),
        (case(verdict("kl", 0.1306, progress=EARLY)), "kl[v2] is an early "
         "verdict on 64 of 256 sequences, so its value is not the metric"),
        (case(verdict("kl", None)), "has no value"),
        (case(VALUES[0], provenance=None),
         "other settings than the spec has now: model was null and is"),
        (changed(hook="blocks.9.hook_resid_pre"),
         'hook was "blocks.9.hook_resid_pre" and is "blocks.8.hook_resid_pre"'),
        (changed(model={**PROVENANCE.model, "name": "gpt2-xl"}),
         'has now: model was "gpt2-xl" and is "gpt2"\n'),
        (changed(model={**PROVENANCE.model, "dtype": "float16"}),
         'has now: model.dtype was "float16" and is "float32"\n'),
        (changed(corpus=OTHER), "has now: data.sequences was 8 and is 256\n"),
        (changed(formula_versions={"kl": 0}),
         "version of the formula of kl was 0 and is 1"),
    ],
)  # fmt: skip
def test_reports_without_a_usable_value_are_refused(
    project: ReportProject, unusable: CaseReport, message: str
) -> None:
    other = case(VALUES[2], member="v1")
    code, output = project.tighten([other, unusable])
    assert code == 1
    assert message in output
    assert project.spec.read_bytes() == SPEC.encode()


def test_the_folder_of_a_model_can_be_elsewhere(project: ReportProject) -> None:
    text = SPEC.replace("model: gpt2\r", "model: ./models/tiny\r")
    project.spec.write_bytes(text.encode())
    folder = "/ci/thresholds/models/tiny"
    elsewhere = changed(model={**PROVENANCE.model, "name": folder})
    assert project.tighten([elsewhere])[0] == 0
    other = changed(model={**PROVENANCE.model, "name": folder.replace("tiny", "large")})
    code, output = project.tighten([other])
    assert code == 1
    assert 'model was "large" and is "tiny"\n' in output


def test_controls_do_not_bound_anything(project: ReportProject) -> None:
    control = case(verdict("kl", 0.0), member="control:identity")
    compared = dataclasses.replace(RUN[0], controls=ControlsResult("warn", {}))
    code, output = project.tighten([control, compared, *RUN[1:]], "--dry-run")
    assert code == 0
    assert "6 bounds tightened" in output
    assert "identity" not in output


def test_unknown_keys_of_a_report_are_ignored(project: ReportProject) -> None:
    project.tighten(RUN)
    project.spec.write_bytes(SPEC.encode())
    document = json.loads(project.out.read_bytes())
    document["cases"][0] |= {"colours": ["red"]}
    document["cases"][0]["verdicts"][0] |= {"hue": 0.5}
    project.out.write_text(json.dumps({**document, "later": 1}), encoding="utf-8")
    code, output = project.run()
    assert (code, output.splitlines()[-1]) == (0, "thresholds/s.yaml: 6 bounds tightened")


@pytest.mark.parametrize(
    ("target", "message"),
    [("new.p9", "unknown metric 'new'"), ("kl@colour=1..2", "no slice 'colour=1..2'")],
)
def test_an_unknown_target_is_refused(project: ReportProject, target: str, message: str) -> None:
    project.tighten(RUN)
    project.spec.write_bytes(SPEC.encode())
    document = json.loads(project.out.read_bytes())
    document["cases"][0]["verdicts"][0]["threshold"]["target"] = target
    project.out.write_text(json.dumps(document), encoding="utf-8")
    code, output = project.run()
    assert code == 1
    assert message in output
    assert project.spec.read_bytes() == SPEC.encode()


def test_a_report_of_other_specs_or_documents_is_refused(project: ReportProject) -> None:
    code, output = project.tighten([ELSEWHERE])
    assert (code, output) == (
        1, "Error: out.json has no verdicts by thresholds/s.yaml; it has those by other/s.yaml\n"
    )  # fmt: skip
    code, output = project.tighten([])
    assert output.endswith("it has those by none\n")
    code, output = project.tighten(RUN, "--document", "layer 9")
    assert output == (
        "Error: thresholds/s.yaml has no document 'layer 9'; did you mean layer 8? allowed: "
        "blocks.9.hook_resid_pre, layer 8\n"
    )
    code, output = project.tighten(RUN, "--document", "blocks.9.hook_resid_pre")
    assert output == (
        "Error: out.json has no verdicts by thresholds/s.yaml::blocks.9.hook_resid_pre\n"
    )
    code, output = project.tighten([case(VALUES[0], document="gone")])
    assert output == (
        "Error: out.json has no verdicts by the thresholds of thresholds/s.yaml, only by gone\n"
    )
    both = [case(VALUES[0]), case(VALUES[0], file="s.yaml")]
    code, output = project.tighten(both)
    assert output.endswith("has specs that could be thresholds/s.yaml: s.yaml, thresholds/s.yaml\n")
    absolute = case(VALUES[0], file=str(project.spec))
    assert project.tighten([absolute], "--document", "layer 8")[0] == 0


def test_a_bound_shared_by_an_anchor_is_refused_with_its_line(project: ReportProject) -> None:
    text = SPEC.replace("kl: {max: 0.25", "kl: {max: &b 0.25").replace(
        "l0: {min: 8, max: 24}", "mse: {max: *b}"
    )
    project.spec.write_bytes(text.encode())
    code, output = project.tighten([case(VALUES[0])])
    assert code == 1
    assert output.startswith(
        "Error: thresholds/s.yaml:7: `thresholds.kl.max` has an anchor that line 8"
    )
    assert project.spec.read_bytes() == text.encode()


def test_a_bound_with_confidence_leaves_room_for_the_interval(project: ReportProject) -> None:
    text = SPEC.replace("warn: 0.23,", "confidence: 0.99,").replace(
        "{max: 2}", "{max: 2, confidence: 0.99}"
    )
    project.spec.write_bytes(text.encode())
    run = [
        case(
            verdict("kl", None, estimate=Estimate(0.13, 0.12, 0.14, 9, 256)),
            verdict("kl.p99", None, estimate=Estimate(1.2, 1.1, 1.3, 9, 256)),
        )
    ]
    code, output = project.tighten(run)
    assert code == 0
    # 0.13 + 0.01 · 2.5950 / 1.9693 + 5 % of 0.13, by tables of Student's t with 255 degrees.
    assert "kl max 0.13 0.25 0.15 " in words(output)
    assert "kl.p99 max 2 kept: no interval of confidence 0.99 is known" in words(output)


@pytest.mark.parametrize("margin", ["5", "100%", "-1%", "x%", "nan", "", "1e999"])
def test_wrong_margins_are_refused(project: ReportProject, margin: str) -> None:
    code, output = project.tighten(RUN, "--margin", margin)
    assert code == 2
    assert "allowed: from 0% to below 100%" in output
    assert project.spec.read_bytes() == SPEC.encode()


def test_a_symbolic_link_to_the_spec_stays_a_link(project: ReportProject, tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    project.spec.rename(real)
    project.spec.symlink_to(real)
    assert project.tighten(RUN)[0] == 0
    assert project.spec.is_symlink()
    assert real.read_bytes() == TIGHT.encode()
    assert load_specs(real)[0].thresholds[0].max == 0.138


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "out.json: not JSON: "),
        ('{"a": NaN}', "out.json: not JSON: NaN is no number of JSON"),
        ('{"schema_version": 1}', "out.json: `schema_version` is 1, allowed: 2; run the gate"),
        ("[]", "out.json: not a report of sae_guard: it has no `schema_version`"),
    ],
)
def test_a_file_that_is_no_report_is_refused(
    project: ReportProject, text: str, message: str
) -> None:
    project.out.write_text(text)
    code, output = project.run()
    assert code == 1
    assert message in output
    project.out.write_bytes(b"\xff")
    assert "out.json: not JSON: 'utf-8' codec" in project.run()[1]
