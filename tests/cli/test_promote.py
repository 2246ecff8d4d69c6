"""``sae-guard promote`` and ``sae-guard retract``: a release is one decision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sae_guard.cli import main
from sae_guard.history import History, Promotion, Recorded, releases_in_force
from tests.helpers.recorded import SPEC, promotion, record_member

OTHER = SPEC.replace("name: tiny", "name: other")


class Project:
    """A folder with a history, in which the commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = History(str(folder / ".sae_guard" / "history"))

    def record(self, member: str, name: str = "v1", **more: object) -> Recorded:
        folder = self.folder / "specs"
        return record_member(self.history, folder, member, name, **more)  # type: ignore[arg-type]

    def release(self, name: str, *members: str) -> list[Recorded]:
        """Record these members of a version."""
        return [self.record(member, name) for member in members]

    def run(self, *arguments: str, code: int = 0) -> str:
        result: Result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return result.output

    def promote(self, *arguments: str, label: str = "r1", code: int = 0) -> str:
        return self.run("promote", *arguments, "--as", label, "--reason", "it is good", code=code)

    def promotions(self) -> list[Promotion]:
        return self.history.promotions()[0]

    def in_force(self, label: str) -> set[str]:
        """Ids of the records that a label stands for."""
        release = releases_in_force(self.promotions()).get(label)
        return {promoted.record.record for promoted in release.records} if release else set()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def ids(*records: Recorded) -> set[str]:
    return {recorded.id for recorded in records}


def test_a_name_is_promoted_whole_by_one_entry(project: Project) -> None:
    a, b = project.release("v1", "layer_0", "layer_1")
    other = project.record("layer_0", text=OTHER)
    output = project.promote("v1", label="v1")
    assert output == "".join(f"promoted {r.id} as v1 ({r.case})\n" for r in (a, b, other))
    (entry,) = project.promotions()
    assert entry.records == (a.promoted, b.promoted, other.promoted)
    assert (entry.action, entry.reason, entry.removed) == ("promote", "it is good", ())


def test_a_release_is_also_named_by_the_ids_of_its_records(project: Project) -> None:
    a, b = project.release("v1", "layer_0", "layer_1")
    project.promote(a.id, b.short, "v1")
    assert project.in_force("r1") == ids(a, b)


def test_every_member_of_the_last_version_is_needed(project: Project) -> None:
    old = [*project.release("v1", "layer_0", "layer_1"), project.record("layer_0", text=OTHER)]
    project.promote("v1")
    project.release("v2", "layer_0")
    output = project.promote("v2", label="r2", code=1)
    assert "2 of 3 members of r1, the last promoted version, are missing" in output
    assert "or name each that is gone on purpose: --removed MEMBER" in output
    assert output.endswith(f"\n  {old[1].case}\n  {old[2].case}\n")
    assert len(project.promotions()) == 1
    assert f"\n  {old[2].case}\n" in project.promote(
        "v2", "--removed", "layer_1", label="r2", code=1
    )
    # --force is about verdicts and labels, not about members.
    project.promote("v2", "--removed", "layer_1", "--force", label="r2", code=1)
    assert len(project.promotions()) == 1


def test_members_that_are_gone_on_purpose_are_kept_with_the_promotion(project: Project) -> None:
    _, gone = project.release("v1", "layer_0", "layer_1")
    project.promote("v1")
    (new,) = project.release("v2", "layer_0")
    project.promote("v2", "--removed", "layer_1", label="r2")
    assert project.promotions()[1].removed == (gone.promoted,)
    assert f"  without {gone.case}\n" in project.run("history", "--promotions")
    # The next version is compared with this one.
    (newest,) = project.release("v3", "layer_0")
    project.promote("v3", label="r3")
    assert (project.in_force("r2"), project.in_force("r3")) == (ids(new), ids(newest))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layer_1", "layer_2"], "--removed layer_2: it is no member of r1; did you mean layer_1?"),
        (["layer_1", "layer_0"], "--removed layer_0: it is in this version too; did you mean"),
    ],
)
def test_a_member_that_is_not_gone_is_not_removed(
    project: Project, names: list[str], message: str
) -> None:
    project.release("v1", "layer_0", "layer_1")
    project.promote("v1")
    project.release("v2", "layer_0")
    options = [word for name in names for word in ("--removed", name)]
    assert message in project.promote("v2", *options, label="r2", code=1)
    assert len(project.promotions()) == 1


def test_nothing_is_removed_from_the_first_version(project: Project) -> None:
    project.release("v1", "layer_0")
    output = project.promote("v1", "--removed", "layer_1", code=1)
    assert "--removed layer_1: no version is promoted before it" in output


def test_single_saes_whose_folders_are_named_as_versions_follow_each_other(
    project: Project,
) -> None:
    project.record("v1", named_by=None)
    project.promote("v1")
    project.record("v2", "v2", named_by="path")
    project.promote("v2", label="r2")
    assert len(project.promotions()) == 2


def test_a_label_stands_for_nothing_but_its_new_records(project: Project) -> None:
    project.record("v1", named_by="path")
    project.promote("v1")
    new = project.record("v2", "v2", named_by="path")
    project.promote("v2", "--force")
    assert project.in_force("r1") == ids(new)


def test_two_members_of_the_same_weights_are_refused(project: Project) -> None:
    project.record("layer_0", weights="same")
    project.record("layer_1", weights="same")
    project.record("layer_0", weights="same", text=OTHER)  # another spec may use the same SAE
    output = project.promote("v1", code=1)
    assert "layer_0 and layer_1 of thresholds/tiny.yaml::tiny have the same weights" in output
    assert project.promotions() == []


def test_two_records_of_one_member_are_refused_unless_they_measured_the_same(
    project: Project,
) -> None:
    first = project.record("layer_0", weights="one")
    again = project.record("layer_0", weights="one")
    project.promote("v1")
    assert project.in_force("r1") == ids(again)
    other = project.record("layer_0", "v2", weights="other")
    output = project.promote(first.id, other.id, label="r2", code=1)
    assert "names 2 records of thresholds/tiny.yaml::tiny [layer_0], expected one" in output
    assert first.id in output
    assert other.id in output


def test_failed_records_need_force(project: Project) -> None:
    passed, failed = project.record("layer_0"), project.record("layer_1", kl=0.2)
    output = project.promote("v1", code=1)
    assert "1 of 2 records of r1 did not pass; --force promotes them all the same:" in output
    assert output.endswith(f"\n  fail  {failed.id} ({failed.case})\n")
    project.promote("v1", "--force")
    assert project.in_force("r1") == ids(passed, failed)


def test_a_label_that_is_used_needs_force(project: Project) -> None:
    old = project.release("v1", "layer_0", "layer_1")
    project.promote("v1")
    assert "these records are r1 already" in project.promote("v1", code=1)
    assert "these records are r1 already" in project.promote("v1", "--force", code=1)
    new = project.release("v2", "layer_0", "layer_1")
    output = project.promote("v2", code=1)
    assert "r1 is promoted already, by " in output
    assert output.endswith("".join(f"\n  {id}" for id in sorted(ids(*old))) + "\n")
    project.promote("v2", "--force")
    assert project.in_force("r1") == ids(*new)
    assert project.run("history", "--promotions").count("  (no longer)\n") == 2


def test_a_label_is_not_the_name_of_other_records(project: Project) -> None:
    project.release("r1", "layer_0")
    project.release("bad", "layer_0")
    for force in ((), ("--force",)):
        assert "r1 is the name of other records" in project.promote("bad", *force, code=1)
    assert project.promote("r1")


def test_a_member_that_a_label_loses_is_out_of_force(project: Project) -> None:
    project.release("v1", "layer_0", "layer_1")
    project.promote("v1")
    (new,) = project.release("v2", "layer_0")
    project.promote("v2", "--removed", "layer_1", "--force")
    assert project.in_force("r1") == ids(new)


def test_a_last_version_with_a_missing_record_can_only_be_retracted(project: Project) -> None:
    (old,) = project.release("v1", "layer_0")
    project.promote("v1")
    shutil.rmtree(old.path)
    project.release("v2", "layer_0")
    output = project.promote("v2", label="r2", code=1)
    assert "which members the last promoted version has is unknown: r1 of " in output
    assert "restore the record, or retract r1" in output
    project.run("retract", "r1", "--reason", "its record is lost")
    project.promote("v2", label="r2")


def test_a_promotion_that_cannot_be_read_could_be_the_last(project: Project) -> None:
    (recorded,) = project.release("v1", "layer_0")
    id = project.history.promote(promotion(recorded, "r0"))
    (project.folder / ".sae_guard/history/promotions" / id / "promotion.json").write_text("{")
    output = project.promote("v1", code=1)
    assert "a promotion cannot be read, which could be the last one: " in output


def test_a_release_with_an_unreadable_record_is_not_promoted(project: Project) -> None:
    _, broken = project.release("v1", "layer_0", "layer_1")
    (Path(broken.path) / "record.json").write_text("{")
    assert "v1 cannot be read whole: " in project.promote("v1", code=1)
    assert project.promotions() == []


def test_a_retracted_version_is_no_release(project: Project) -> None:
    a, b = project.release("v1", "layer_0", "layer_1")
    project.promote("v1")
    output = project.run("retract", "r1", "--reason", "broken in layer 0")
    assert output.startswith("r1 was retracted on 20")
    assert output.endswith(": broken in layer 0\n")
    assert project.in_force("r1") == set()
    (_, entry) = project.promotions()
    assert (entry.action, entry.records) == ("retract", (a.promoted, b.promoted))
    listed = project.run("history", "--promotions")
    assert listed.count("  (no longer)\n") == 2
    assert "  r1  RETRACTED by " in listed
    assert listed.endswith(": broken in layer 0\n")
    assert "promoted" not in project.run("history").splitlines()[0]
    # The last promoted version is none: nothing is missing.
    project.release("v2", "layer_2")
    project.promote("v2", label="r2")


def test_a_retracted_label_is_used_again_by_force_only(project: Project) -> None:
    a, b = project.release("v1", "layer_0"), project.release("v2", "layer_0")
    project.promote("v1")
    project.run("retract", "r1", "--reason", "broken")
    output = project.promote("v2", code=1)
    assert "r1 was retracted on 20" in output
    assert "choose another label, or --force uses it again" in output
    project.promote("v2", "--force")
    assert project.in_force("r1") == ids(*b)
    project.promote("v1", "--force")
    assert project.in_force("r1") == ids(*a)


def test_what_is_no_promoted_version_cannot_be_retracted(project: Project) -> None:
    project.release("v1", "layer_0")
    output = project.run("retract", "r1", "--reason", "broken", code=1)
    assert "r1 is no promoted version in " in output
    assert output.endswith("; there is none\n")
    project.promote("v1")
    assert project.run("retract", "r2", "--reason", "x", code=1).endswith("; allowed: r1\n")
    assert "--reason is empty" in project.run("retract", "r1", "--reason", " ", code=2)
    assert "Missing option '--reason'" in project.run("retract", "r1", code=2)
    project.run("retract", "r1", "--reason", "broken")
    output = project.run("retract", "r1", "--reason", "broken", code=1)
    assert ": broken; it stays retracted\n" in output
    assert len(project.promotions()) == 2


def test_a_retracted_version_is_compared_with_a_notice(project: Project) -> None:
    old, new = project.release("v1", "layer_0"), project.release("v2", "layer_0")
    project.promote("v1")
    assert "retracted" not in project.run("compare", "r1", "v2")
    project.run("retract", "r1", "--reason", "broken")
    output = project.run("compare", "r1", "v2")
    assert output.startswith("r1 was retracted on 20")
    assert output.count("was retracted") == 1
    assert "retracted" not in project.run("compare", old[0].id, new[0].id)


def test_bounds_are_not_moved_to_a_retracted_version(project: Project) -> None:
    project.release("v1", "layer_0")
    project.promote("v1")
    project.run("retract", "r1", "--reason", "broken")
    output = project.run("tighten", "specs/tiny.yaml", "--to", "r1", code=1)
    assert "r1 was retracted on 20" in output
    assert "name another version, or the id of a record" in output
