"""``--sae-baseline`` and thresholds on changes, from the command line to the record."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sae_guard.history import Promotion, Recorded
from sae_guard.history.record import SCHEMA_VERSION
from tests.pytest_plugin.projects import Project, history

CHANGES = "kl: {max: 0.1}\n  l0: {min: 1, max: 40}"
WITH_CHANGES = (
    "kl: {max: 20, max_increase: 0.05, p99: {max_increase: 0.5}}\n"
    "  l0: {min: 1, max: 40, max_increase: 5%, max_decrease: 5%}"
)


def record(project: Project, name: str, *args: str) -> Recorded:
    """Record the good SAE by the current spec."""
    assert project.run("--sae", "good", "--sae-record", name, *args).ret == 0
    records, _ = history(project).records()
    return next(recorded for recorded in records if recorded.record.name == name)


def promote(project: Project, recorded: Recorded, label: str) -> None:
    history(project).promote(
        Promotion(
            schema_version=SCHEMA_VERSION, label=label, records=(recorded.promoted,), by="someone",
            created=datetime.now(UTC), reason="good",
        )
    )  # fmt: skip


@pytest.fixture
def promoted(project: Project) -> Recorded:
    """Record of the good SAE, promoted as v1.2; the spec has thresholds on changes."""
    project.write_spec(project.spec.replace(CHANGES, WITH_CHANGES))
    recorded = record(project, "first", "--sae-baseline=none")
    promote(project, recorded, "v1.2")
    return recorded


def test_changes_are_judged_against_the_baseline(
    project: Project, promoted: Recorded, mode: tuple[str, ...]
) -> None:
    args = ("--sae", "bad", "--sae-baseline", "v1.2", "--sae-json", "out.json")
    result = project.run(*args, "--sae-record", "second", *mode)
    assert result.ret == 1
    verdicts = project.verdicts()
    names = ("kl.change", "kl.p99.change", "l0.change")
    assert [verdicts[f"{name}[bad]"] for name in names] == ["fail", "fail", "pass"]
    short = promoted.id.rpartition("-")[2]
    outcomes = project.outcomes()
    verdict, of_tail = outcomes["kl.change[bad]"], outcomes["kl.p99.change[bad]"]
    change = verdict.change
    assert change is not None
    assert of_tail.change is not None
    assert of_tail.estimate is not None
    assert change.baseline == f"v1.2 [good] ({short})"
    assert change.before == promoted.record.metrics["kl"].value
    assert change.after == outcomes["kl[bad]"].value
    assert verdict.value == pytest.approx(change.after - change.before)
    assert change.p_value is not None
    assert change.p_value < 1e-3
    assert of_tail.change.before == promoted.record.views["kl.p99"].value
    assert of_tail.estimate.low is None
    result.stdout.fnmatch_lines([f"  changes since v1.2 [[]good] ({short}), on the same sequences"])
    recorded, _ = history(project).records()
    by_member = {one.record.checkpoint.label: one.record for one in recorded}
    (row,) = (row for row in by_member["bad"].thresholds if row.metric == "kl.change")
    assert (row.change, row.verdict, row.max) == ("difference", "fail", 0.05)
    assert (row.before, row.value) == (change.before, verdict.value)
    assert row.baseline == f"v1.2 [good] ({short})"


@pytest.mark.usefixtures("promoted")
def test_a_member_that_the_baseline_does_not_have_is_no_pass(
    project: Project, mode: tuple[str, ...]
) -> None:
    both = ("--sae", "good", "--sae", "bad", "--sae-json", "out.json", "--sae-baseline", "v1.2")
    result = project.run(*both, "-k", "good", *mode)
    assert result.ret == 2
    result.stdout.fnmatch_lines(
        ["INCOMPLETE: thresholds/tiny.yaml::tiny [[]bad] has no earlier version in v1.2; *"]
    )
    assert "kl.change[bad]" not in project.verdicts()
    added = project.spec.replace(CHANGES, WITH_CHANGES) + "members: {added: [bad]}\n"
    project.write_spec(added)
    result = project.run(*both, *mode)
    assert result.ret == 1
    verdicts = project.verdicts()
    assert verdicts["kl.change[good]"] == "pass"
    assert verdicts["explained_variance[bad]"] == "fail"
    assert "kl.change[bad]" not in verdicts
    result.stdout.fnmatch_lines(
        ["thresholds/tiny.yaml::tiny [[]bad] is new: no earlier version in v1.2; *"]
    )


def test_without_a_version_thresholds_on_changes_are_an_error(
    project: Project, mode: tuple[str, ...]
) -> None:
    project.write_spec(project.spec.replace(CHANGES, WITH_CHANGES))
    args = ("--sae", "good", "--sae-json", "out.json", "--sae-record", "v1", *mode)
    result = project.run(*args)
    assert result.ret == 2
    assert project.verdicts()["kl[good]"] == "pass"
    assert project.verdicts()["kl.change[good]"] == "error"
    result.stdout.fnmatch_lines(
        ["*kl.change needs a baseline (thresholds/tiny.yaml:6): name a *(--sae-baseline)",
         "NOT RECORDED: *kl.change needs a baseline *"]
    )  # fmt: skip
    result = project.run(*args, "--sae-baseline=none")
    assert result.ret == 0
    assert set(project.verdicts()) == {"kl[good]", "l0[good]", "explained_variance[good]"}
    result.stdout.fnmatch_lines(["baseline none: left out 3 thresholds that earlier versions set"])


def test_the_spec_names_a_baseline_and_the_command_line_another(
    project: Project, promoted: Recorded
) -> None:
    spec = project.spec.replace(CHANGES, WITH_CHANGES)
    project.write_spec(spec + "baseline: v9\n")
    result = project.run("--sae", "good")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*no record 'v9': give an id, its hash, or a name; *v1.2*"])
    assert project.run("--sae", "good", "--sae-baseline", "v1.2").ret == 0
    project.write_spec(spec + "baseline: v1.2\n")
    assert project.run("--sae", "good").ret == 0
    assert project.run("--sae", "good", "--sae-baseline", promoted.id).ret == 0


def test_an_unknown_baseline_is_a_usage_error(project: Project, promoted: Recorded) -> None:
    result = project.run("--sae", "good", "--sae-baseline", "v9")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*sae_guard: no record 'v9'*allowed: first, v1.2*history* (--sae-baseline)"]
    )
    project.write_spec(project.spec.replace(CHANGES, "kl: {max_increase: 0.1}"))
    text = (project.path / "thresholds/tiny.yaml").read_text(encoding="utf-8")
    project.write_spec(text.replace("  explained_variance: {min: 0.9}\n", ""))
    result = project.run("--sae", "good", "--sae-baseline=none")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*tiny.yaml::tiny has thresholds on changes only: *"])


def test_a_baseline_that_no_threshold_uses_is_noted(project: Project) -> None:
    record(project, "v1")
    result = project.run("--sae", "good", "--sae-baseline", "v1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["baseline v1: no spec of this run has thresholds on changes"])


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("sequences: 8", "sequences: 9", "policy: n_sequences was 8 and is 9"),
        ("context: 16", "context: 15", "policy: context was 16 and is 15"),
        ("prepend_bos: true", "prepend_bos: true, special_tokens: include", "policy: excluded_ids"),
        ("../text.txt", "../other.txt", "sha256 of the tokens was"),
    ],
)
@pytest.mark.usefixtures("promoted")
def test_a_baseline_on_other_tokens_is_an_error_with_the_difference(
    project: Project, old: str, new: str, difference: str
) -> None:
    text = (project.path / "text.txt").read_text(encoding="utf-8")
    (project.path / "other.txt").write_text("Once " + text, encoding="utf-8")
    spec = project.spec.replace(CHANGES, WITH_CHANGES)
    project.write_spec(spec.replace(old, new))
    result = project.run("--sae", "good", "--sae-baseline", "v1.2", "--sae-json", "out.json")
    assert result.ret == 2
    verdicts = project.verdicts()
    assert verdicts["kl.change[good]"] == verdicts["l0.change[good]"] == "error"
    assert verdicts["kl[good]"] == "pass"
    result.stdout.fnmatch_lines([f"*kl.change: not comparable with v1.2 (*): *{difference}*"])


@pytest.mark.parametrize(("strict", "code", "verdict"), [(False, 0, "warn"), (True, 2, "error")])
def test_other_library_versions_are_a_warning_or_with_strict_env_an_error(
    project: Project, promoted: Recorded, strict: bool, code: int, verdict: str
) -> None:
    record = promoted.record
    versions = {**record.provenance["versions"], "torch": "1.0"}
    older = record.model_copy(
        update={"name": "older", "provenance": {**record.provenance, "versions": versions}}
    )
    own_history = history(project)
    folder = project.path / ".sae_guard/history/records" / promoted.id
    own_history.add(older, {name: (folder / name).read_bytes() for name in record.files})
    spec = project.spec.replace(CHANGES, WITH_CHANGES)
    project.write_spec(spec + f"strict_env: {str(strict).lower()}\n")
    result = project.run("--sae", "good", "--sae-baseline", "older", "--sae-json", "out.json")
    assert result.ret == code
    assert project.verdicts()["kl.change[good]"] == verdict
    result.stdout.fnmatch_lines(["*torch was 1.0 and is *"])


def test_a_threshold_on_a_change_has_no_early_verdict(project: Project, promoted: Recorded) -> None:
    args = ("--sae", "good", "--sae-baseline", "v1.2", "--sae-fast", "--sae-json", "out.json")
    assert project.run(*args).ret == 0
    assert project.estimates()["kl.change[good]"].n_sequences == 8
    assert project.outcomes()["kl.change[good]"].progress is None
