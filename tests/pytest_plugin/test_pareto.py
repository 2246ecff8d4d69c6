"""``pareto: {x: l0, y: kl}`` in a spec, from the command line to the record."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.projects import Project, history

PARETO = "thresholds:\n  pareto: {x: l0, y: kl}\n"


@pytest.fixture
def pareto_project(project: Project) -> Project:
    """Project whose spec has ``pareto``; ``good``, whose KL is 0, is recorded as v1."""
    project.write_spec(project.spec.replace("thresholds:\n", PARETO).replace("max: 0.1", "max: 20"))
    result = project.run("--sae", "good", "--sae-record", "v1", "--sae-baseline=none")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["baseline none: left out 1 threshold that earlier*"])
    return project


def test_a_dominated_checkpoint_fails_and_the_summary_has_the_frontier(
    pareto_project: Project, mode: tuple[str, ...]
) -> None:
    checkpoints = ("--sae", "good", "--sae", "bad")
    result = pareto_project.run(*checkpoints, "--sae-record", "v2", "--sae-json", "out.json", *mode)
    assert result.ret == 1
    assert pareto_project.verdicts("pareto") == {"pareto[good]": "pass", "pareto[bad]": "fail"}
    bad = pareto_project.cases()["bad"].pareto
    assert bad is not None
    assert bad.comparison is not None
    records = {
        (recorded.record.name, recorded.record.checkpoint.label): recorded
        for recorded in history(pareto_project).records()[0]
    }
    short = records["v1", "good"].id.rpartition("-")[2]
    name = f"v1 [good] ({short})"
    assert [point.name for point in bad.comparison.others] == [name]
    assert bad.pareto.where == "thresholds/tiny.yaml:6"
    escaped = f"v1 [[]good] ({short})"
    result.stdout.fnmatch_lines(
        [f"pareto: dominated in l0 and kl by {escaped} (l0 * in both; kl *, here *, +*)",
         "thresholds/tiny.yaml:6: pareto: {x: l0, y: kl}",
         "  kl (nats)", "*│*@*", f"  A {escaped} *on the frontier",
         "  pass: pareto: not dominated in l0 and kl (l0 *; 1 record)",
         "  FAIL: pareto: dominated in l0 and kl by *"]
    )  # fmt: skip
    worse, good = records["v2", "bad"].record, records["v2", "good"].record
    assert worse.pareto is not None
    assert good.pareto is not None
    assert (worse.pareto.verdict, worse.pareto.dominated_by) == ("fail", (name,))
    assert (good.pareto.verdict, good.pareto.records) == ("pass", 1)
    assert (worse.verdict, good.verdict) == ("fail", "pass")
    assert records["v1", "good"].record.pareto is None


@pytest.mark.parametrize(
    "mode",
    [pytest.param((), id="plain"), pytest.param(("-n2",), id="-n2", marks=pytest.mark.slow)],
)
def test_without_a_comparable_record_pareto_is_an_error(
    pareto_project: Project, mode: tuple[str, ...]
) -> None:
    text = (pareto_project.path / "thresholds/tiny.yaml").read_text(encoding="utf-8")
    pareto_project.write_spec(text.replace("sequences: 8", "sequences: 9"))
    args = ("--sae", "good", "--sae-json", "out.json", "--sae-record", "v2", *mode)
    result = pareto_project.run(*args)
    assert result.ret == 2
    assert pareto_project.verdicts("pareto") == {"pareto[good]": "error"}
    message = "*pareto: no record of thresholds/tiny.yaml::tiny in *(1 left out; v1 *"
    result.stdout.fnmatch_lines([f"{message}: n_sequences was 8 and is 9)*"])
    result.stdout.fnmatch_lines(["NOT RECORDED: *ended in an error: *pareto: no record of*"])


def test_the_summary_of_a_pass_lists_records_that_are_not_comparable(
    pareto_project: Project,
) -> None:
    text = (pareto_project.path / "thresholds/tiny.yaml").read_text(encoding="utf-8")
    pareto_project.write_spec(text.replace("sequences: 8", "sequences: 9"))
    pareto_project.run("--sae", "bad", "--sae-record", "v2", "--sae-baseline=none")
    result = pareto_project.run("--sae", "bad", "-k", "pareto")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["  pass: pareto: not dominated in l0 and kl (l0 *; 1 record)",
         "    not compared: v1 *: policy: n_sequences was 8 and is 9"]
    )  # fmt: skip


def test_with_an_unreadable_record_pareto_is_an_error(pareto_project: Project) -> None:
    (head,) = (pareto_project.path / ".sae_guard/history/records").glob("*/record.json")
    head.write_text(head.read_text(encoding="utf-8") + " ", encoding="utf-8")
    result = pareto_project.run("--sae", "good", "--sae-json", "out.json")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*pareto: a record cannot be read: *its hash differs*"])


def test_a_deselected_pareto_test_has_a_verdict_in_the_record(pareto_project: Project) -> None:
    result = pareto_project.run("--sae", "bad", "--sae-record", "v2", "-k", "l0")
    assert result.ret == 0
    records = (recorded.record for recorded in history(pareto_project).records()[0])
    (record,) = (record for record in records if record.name == "v2")
    assert record.pareto is not None
    assert (record.pareto.verdict, record.verdict) == ("fail", "fail")


def test_pareto_of_a_broken_checkpoint_is_an_error(pareto_project: Project) -> None:
    (pareto_project.path / "bad" / "sae_weights.safetensors").write_bytes(b"nothing")
    assert pareto_project.run("--sae", "bad", "--sae-json", "out.json").ret == 2
    assert pareto_project.verdicts("pareto") == {"pareto[bad]": "error"}
