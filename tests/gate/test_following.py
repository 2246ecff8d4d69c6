"""Tests of `sae_guard.gate.following`: earlier selves, new, missing and renamed members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sae_guard.checkpoints.reference import NamedBy
from sae_guard.core.measurement import Measurement
from sae_guard.core.report import CaseReport, MemberProblem
from sae_guard.gate.baselines import Baselines
from sae_guard.gate.cases import Case
from sae_guard.gate.following import equal_weights, follow
from sae_guard.gate.planning import Plan
from sae_guard.history import History
from sae_guard.history.record import Recorded
from sae_guard.release.manifest import Manifest
from tests.helpers.changed_measurements import with_provenance
from tests.helpers.recorded import RUN_INFO, SPEC, a_case, built, ordinary, report_of

CHANGE = SPEC.replace("kl: {max: 0.1}", "kl: {max: 0.1, max_increase: 2%}")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(str(tmp_path / "history"))


def case(folder: Path, member: str, named_by: NamedBy = "root", text: str = CHANGE) -> Case:
    return replace(a_case(folder / member, member, text), named_by=named_by, alone=False)


def record(history: History, case: Case, kl: float = 0.05) -> Recorded:
    without_changes = tuple(t for t in case.thresholds if not t.change)
    absolute = replace(case, thresholds=without_changes)
    return history.add(*built(absolute, ordinary(kl), run_info=replace(RUN_INFO, name="v1.0")))


def followed(
    history: History, *cases: Case, version: str | None = "v1.0", part: bool = False
) -> Plan:
    specs = tuple(case.spec for case in cases)
    return follow(Plan(cases, ()), specs, Baselines(history), version, part=part)


def lines(plan: Plan) -> list[str]:
    return [f"{problem.member}: {problem.reason}" for problem in plan.problems]


def test_each_member_is_compared_with_its_own_earlier_self(
    history: History, tmp_path: Path
) -> None:
    small, wide = case(tmp_path, "k16"), case(tmp_path, "k32")
    records = {c.member: record(history, c) for c in (small, wide)}
    plan = followed(history, wide, small)
    assert lines(plan) == []
    assert all("kl.change" in {str(t.target) for t in c.thresholds} for c in plan.cases)
    for member in (small, wide):
        pair = Baselines(history).earlier(member, "v1.0")
        assert pair is not None
        assert pair.old.id == records[member.member].id


def test_a_missing_member_is_a_problem_unless_the_spec_says_that_it_is_gone(
    history: History, tmp_path: Path
) -> None:
    for member in ("k16", "k32"):
        record(history, case(tmp_path, member))
    (line,) = lines(followed(history, case(tmp_path, "k16")))
    assert line.startswith("thresholds/tiny.yaml::tiny [k32]: is in v1.0 and not in this run")
    gone = case(tmp_path, "k16", text=CHANGE + "members: {removed: [k32]}\n")
    assert lines(followed(history, gone)) == []


def test_an_unexpected_member_is_a_problem_unless_the_spec_says_that_it_is_new(
    history: History, tmp_path: Path
) -> None:
    record(history, case(tmp_path, "k16"))
    plan = followed(history, case(tmp_path, "k16"), case(tmp_path, "k32"))
    (line,) = lines(plan)
    assert line.startswith("thresholds/tiny.yaml::tiny [k32]: has no earlier version in v1.0")
    text = CHANGE + "members: {added: [k32]}\n"
    plan = followed(history, case(tmp_path, "k16", text=text), case(tmp_path, "k32", text=text))
    assert lines(plan) == []
    old, new = plan.cases
    assert (old.new_since, new.new_since) == ("", "v1.0")
    assert {str(threshold.target) for threshold in new.thresholds} == {"kl", "l0"}


def test_a_new_member_without_a_bound_in_force_is_a_problem(
    history: History, tmp_path: Path
) -> None:
    record(history, case(tmp_path, "k16"))
    text = SPEC.partition("thresholds:")[0] + (
        "thresholds: {kl: {max_increase: 2%}}\nmembers: {added: [k32]}\n"
    )
    plan = followed(history, case(tmp_path, "k16", text=text), case(tmp_path, "k32", text=text))
    (line,) = lines(plan)
    assert "[k32]: is new since v1.0 and has no bound in force" in line


def test_a_manifest_says_what_is_renamed_removed_and_expected(
    history: History, tmp_path: Path
) -> None:
    for member in ("k16", "wide", "gone"):
        record(history, case(tmp_path, member))
    manifest = Manifest(
        tmp_path / "sae_release.yaml", "v2", {"k16": "a", "k32": "b", "k64": "c"},
        {"k32": "wide"}, ["gone"],
    )  # fmt: skip
    members = [
        replace(case(tmp_path, name, "manifest"), manifest=manifest) for name in ("k16", "k32")
    ]
    (line,) = lines(followed(history, *members))
    assert line.startswith("k64: is in ")
    third = replace(case(tmp_path, "k64", "manifest"), manifest=manifest)
    plan = followed(history, *members, third)
    assert lines(plan) == []
    assert [c.new_since for c in plan.cases] == ["", "", "v1.0"]


def test_single_saes_named_by_their_version_follow_each_other(
    history: History, tmp_path: Path
) -> None:
    record(history, case(tmp_path, "v1", "path"))
    v2 = replace(case(tmp_path, "v2", "path"), alone=True)
    assert lines(followed(history, v2)) == []
    baseline = Baselines(history).baseline(v2, "v1.0")
    assert baseline.name.startswith("v1.0 [v1] (")
    assert baseline.same_shape


def test_a_version_that_cannot_be_read_is_a_problem(history: History, tmp_path: Path) -> None:
    recorded = record(history, case(tmp_path, "k16"))
    (line,) = lines(followed(history, case(tmp_path, "k16"), version="v9"))
    assert line.startswith("baseline v9: no record 'v9'")
    record(history, case(tmp_path, "k32"))
    (Path(recorded.path) / "record.json").write_text("{}")
    (line,) = lines(followed(history, case(tmp_path, "k32")))
    assert line.startswith("baseline v1.0: baseline v1.0 cannot be read")


def test_other_specs_of_a_version_are_expected_unless_the_user_names_the_specs(
    history: History, tmp_path: Path
) -> None:
    layer = replace(a_case(tmp_path / "b", "k16", CHANGE, "thresholds/b.yaml"), named_by="root")
    record(history, layer)
    record(history, case(tmp_path, "k16"))
    (line,) = lines(followed(history, case(tmp_path, "k16")))
    assert line.startswith("thresholds/b.yaml::tiny [k16]: is in v1.0")
    assert lines(followed(history, case(tmp_path, "k16"), part=True)) == []
    of_spec = case(tmp_path, "k16", text=CHANGE + "baseline: v1.0\n")
    assert lines(followed(history, of_spec, version=None)) == []


def test_no_baseline_expects_nothing(history: History, tmp_path: Path) -> None:
    record(history, case(tmp_path, "k16"))
    other = case(tmp_path, "k32")
    for version in (None, "none"):
        assert followed(history, other, version=version) == Plan((other,), ())


@pytest.mark.parametrize(
    ("named_by", "one_version", "is_problem"),
    [("root", False, True), ("path", False, False), ("path", True, True)],
)
def test_equal_weights_under_two_names_are_a_problem(
    tmp_path: Path, named_by: NamedBy, one_version: bool, is_problem: bool
) -> None:
    def reported(case: Case, weights: str, config: str) -> CaseReport:
        files = {"sae.safetensors": weights * 64, "cfg.json": config * 64}
        measurement: Measurement = with_provenance(ordinary(), checkpoint={"files": files})
        return report_of(case, measurement, [])

    cases = [case(tmp_path, name, named_by, SPEC) for name in ("k16", "k32", "k64")]
    reports = [reported(c, w, x) for c, w, x in zip(cases, "112", "abc", strict=True)]
    problems = list(equal_weights(cases, reports, one_version=one_version))
    expected = MemberProblem(
        cases[1].ref.title, "has the weights of k16; allowed: one name for an SAE"
    )
    assert problems == ([expected] if is_problem else [])


def test_a_renamed_spec_does_not_make_its_members_new(history: History, tmp_path: Path) -> None:
    record(history, case(tmp_path, "k16"))
    renamed = CHANGE.replace("name: tiny", "name: other")
    plan = followed(history, case(tmp_path, "k16", "manifest", renamed), part=True)
    assert "is in v1.0 by thresholds/tiny.yaml::tiny, and not by this spec" in lines(plan)[0]


def test_what_a_spec_says_is_gone_is_of_that_spec_alone(history: History, tmp_path: Path) -> None:
    for member in ("k16", "k32"):
        record(history, case(tmp_path, member))
    (elsewhere,) = (
        a_case(tmp_path / "e", "k64", CHANGE + "members: {removed: [k32]}\n", "e.yaml").spec,
    )
    one = case(tmp_path, "k16")
    plan = follow(Plan((one,), ()), (one.spec, elsewhere), Baselines(history), "v1.0", part=False)
    (line,) = lines(plan)
    assert "[k32]: is in v1.0 and not in this run" in line


def test_a_manifest_that_renames_what_there_never_was_is_a_problem(
    history: History, tmp_path: Path
) -> None:
    record(history, case(tmp_path, "k16"))
    manifest = Manifest(tmp_path / "m.yaml", "v2", {"k16": "a"}, {"k16": "k8"}, ["k16"])
    plan = followed(history, replace(case(tmp_path, "k16", "manifest"), manifest=manifest))
    assert "was 'k8' before, as its manifest says, but v1.0 has none" in lines(plan)[0]


def test_manifests_of_two_versions_in_a_run_are_a_problem(history: History, tmp_path: Path) -> None:
    cases = [
        replace(
            case(tmp_path, name, "manifest"),
            manifest=Manifest(tmp_path / version, version, {name: name}),
        )
        for name, version in (("k16", "v1"), ("k32", "v2"))
    ]
    (line,) = lines(followed(history, *cases, version=None))
    assert line.startswith("the release: has the versions v1, v2 (")
