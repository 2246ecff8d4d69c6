"""``pareto: {x: l0, y: kl}`` in a spec, from the command line to the record."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.projects import Project, history

PARETO = "thresholds:\n  pareto: {x: l0, y: kl}\n"


@pytest.fixture
def asking(project: Project) -> Project:
    """``good`` has no KL, and what it gets is recorded as v1."""
    project.write_spec(project.spec.replace("thresholds:\n", PARETO).replace("max: 0.1", "max: 20"))
    result = project.run("--sae", "good", "--sae-record", "v1", "--sae-baseline=none")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["baseline none: left out 1 threshold that earlier*"])
    return project


def test_what_a_record_dominates_fails_and_the_frontier_is_shown(
    asking: Project, mode: tuple[str, ...]
) -> None:
    checkpoints = ("--sae", "good", "--sae", "bad")
    result = asking.run(*checkpoints, "--sae-record", "v2", "--sae-json", "out.json", *mode)
    assert result.ret == 1
    assert asking.verdicts("pareto") == {"pareto[good]": "pass", "pareto[bad]": "fail"}
    bad = asking.cases()["bad"].pareto
    assert bad is not None
    assert bad.comparison is not None
    kept = {
        (each.record.name, each.record.checkpoint.label): each
        for each in history(asking).records()[0]
    }
    short = kept["v1", "good"].id.rpartition("-")[2]
    name = f"v1 [good] ({short})"
    assert [point.name for point in bad.comparison.others] == [name]
    assert bad.pareto.where == "thresholds/tiny.yaml:6"
    shown = f"v1 [[]good] ({short})"
    result.stdout.fnmatch_lines(
        [f"pareto: dominated in l0 and kl by {shown} (l0 * in both; kl *, here *, +*)",
         "thresholds/tiny.yaml:6: pareto: {x: l0, y: kl}",
         "  kl (nats)", "*│*@*", f"  A {shown} *on the frontier",
         "  pass: pareto: not dominated in l0 and kl (l0 *; 1 record)",
         "  FAIL: pareto: dominated in l0 and kl by *"]
    )  # fmt: skip
    worse, good = kept["v2", "bad"].record, kept["v2", "good"].record
    assert worse.pareto is not None
    assert good.pareto is not None
    assert (worse.pareto.verdict, worse.pareto.dominated_by) == ("fail", (name,))
    assert (good.pareto.verdict, good.pareto.records) == ("pass", 1)
    assert (worse.verdict, good.verdict) == ("fail", "pass")
    assert kept["v1", "good"].record.pareto is None


@pytest.mark.parametrize(
    "mode",
    [pytest.param((), id="plain"), pytest.param(("-n2",), id="-n2", marks=pytest.mark.slow)],
)
def test_without_records_to_compare_with_there_is_no_verdict(
    asking: Project, mode: tuple[str, ...]
) -> None:
    text = (asking.path / "thresholds/tiny.yaml").read_text(encoding="utf-8")
    asking.write_spec(text.replace("sequences: 8", "sequences: 9"))
    asked = ("--sae", "good", "--sae-json", "out.json", "--sae-record", "v2", *mode)
    result = asking.run(*asked)
    assert result.ret == 2
    assert asking.verdicts("pareto") == {"pareto[good]": "error"}
    message = "*pareto: no record of thresholds/tiny.yaml::tiny in *(1 left out; v1 *"
    result.stdout.fnmatch_lines([f"{message}: n_sequences was 8 and is 9)*"])
    result.stdout.fnmatch_lines(["NOT RECORDED: *ended in an error: *pareto: no record of*"])


def test_a_pass_names_the_records_that_it_was_not_compared_with(asking: Project) -> None:
    text = (asking.path / "thresholds/tiny.yaml").read_text(encoding="utf-8")
    asking.write_spec(text.replace("sequences: 8", "sequences: 9"))
    asking.run("--sae", "bad", "--sae-record", "v2", "--sae-baseline=none")
    result = asking.run("--sae", "bad", "-k", "pareto")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["  pass: pareto: not dominated in l0 and kl (l0 *; 1 record)",
         "    not compared: v1 *: policy: n_sequences was 8 and is 9"]
    )  # fmt: skip


def test_a_record_that_cannot_be_read_could_be_the_better_one(asking: Project) -> None:
    (head,) = (asking.path / ".sae_guard/history/records").glob("*/record.json")
    head.write_text(head.read_text(encoding="utf-8") + " ", encoding="utf-8")
    result = asking.run("--sae", "good", "--sae-json", "out.json")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*pareto: a record cannot be read: *its hash differs*"])


def test_a_deselected_verdict_is_reached_for_the_record(asking: Project) -> None:
    result = asking.run("--sae", "bad", "--sae-record", "v2", "-k", "l0")
    assert result.ret == 0
    (kept,) = (e.record for e in history(asking).records()[0] if e.record.name == "v2")
    assert kept.pareto is not None
    assert (kept.pareto.verdict, kept.verdict) == ("fail", "fail")


def test_a_broken_checkpoint_is_an_error(asking: Project) -> None:
    (asking.path / "bad" / "sae_weights.safetensors").write_bytes(b"nothing")
    assert asking.run("--sae", "bad", "--sae-json", "out.json").ret == 2
    assert asking.verdicts("pareto") == {"pareto[bad]": "error"}
