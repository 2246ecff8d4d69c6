"""``sae-guard verify`` of a release: each member by its own checkpoint, the worst exit code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_guard.core.measurement import Measurement
from sae_guard.demo import SAES
from sae_guard.gate.cases import Case
from sae_guard.gate.session import GateSession
from sae_guard.history import History, Recorded, read_measurement
from sae_guard.release.manifest import FILE_NAME, Manifest, to_yaml
from tests.helpers.small_demo import SMALL, enter_copy, make_small, recording_in, run

RELEASE = {"wide": "first", "narrow": "second"}
"""Member → its folder in the release."""

WHOLE = SMALL.partition("slices:")[0].replace(", p99: {max: 9}", "")
"""A spec without targets that need the values of single tokens, which records do not give back."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a release of two members, recorded as v2.0; shared by all tests."""
    root = make_small(tmp_path_factory.mktemp("recorded") / "project", WHOLE)
    release = root / "release"
    for folder, source in (("first", "v1"), ("second", "v2")):
        shutil.copytree(SAES / source, release / folder)
    with recording_in(root):
        history = History(str(root / ".sae_guard" / "history"))
        for member, folder in RELEASE.items():
            run("measure", release / folder, "--record", "once")
            (*_, once), _ = history.records()
            files = {name: (Path(once.path) / name).read_bytes() for name in once.record.files}
            row = once.record.checkpoint.model_copy(update={"label": member})
            history.add(
                once.record.model_copy(update={"checkpoint": row, "name": "v2.0"}), files
            )  # fmt: skip
            shutil.rmtree(once.path)
        (release / FILE_NAME).write_text(to_yaml(Manifest(release / FILE_NAME, "v2.0", RELEASE)))
        yield root


@pytest.fixture
def project(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that a test can change; it is the current folder."""
    return enter_copy(recorded, tmp_path, monkeypatch)


@pytest.fixture
def remeasured(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    """Answer measurements from the records, which is what measuring again gives."""
    by_member = {each.member: each for each in records(project)}

    def measurement(self: GateSession, case: Case) -> Measurement:
        return read_measurement(by_member[case.member])

    monkeypatch.setattr(GateSession, "measurement", measurement)
    monkeypatch.setattr("sae_guard.history.read_token_kl", lambda _: None)


def records(project: Path) -> list[Recorded]:
    return History(str(project / ".sae_guard" / "history")).records()[0]


def test_every_member_is_measured_again(project: Path) -> None:
    output = run("verify", "v2.0", "--sae", "release").output
    for each in records(project):
        assert f"{each.case}  {each.id}\nrecord    {each.id} is unchanged" in output
        assert f" numbers of {each.id}\n\n" in output
    assert output.endswith("\nconfirmed: 2 of 2 members of v2.0\n")


def test_the_worst_member_decides(project: Path, remeasured: None) -> None:
    (project / "release" / "first" / "cfg.json").write_text(
        (project / "release" / "first" / "cfg.json").read_text() + " "
    )
    result = run("verify", "v2.0", "--sae", "release", code=1)
    assert "NOT CONFIRMED: the weights differ:\n  cfg.json: " in result.output
    assert result.stderr.endswith("confirmed: 1 of 2 members of v2.0; differ: wide\n")
    (project / "release" / "second" / "sae_weights.safetensors").write_bytes(b"")
    result = run("verify", "v2.0", "--sae", "release", code=2)
    expected = "confirmed: 0 of 2 members of v2.0; differ: wide; not verified: narrow\n"
    assert result.stderr.endswith(expected)


def test_a_member_without_a_checkpoint_is_not_verified(project: Path, remeasured: None) -> None:
    result = run("verify", "v2.0", "--sae", "release/second", code=2)
    assert "no checkpoint is named wide; there are: narrow; name the folder of" in result.stderr
    assert "(--root)" in result.stderr
    assert result.stderr.endswith("confirmed: 1 of 2 members of v2.0; not verified: wide\n")


def test_members_are_chosen_by_a_glob(project: Path, remeasured: None) -> None:
    output = run("verify", "v2.0", "--sae", "release", "--member", "n*").output
    assert output.endswith("\nconfirmed: 1 of 1 members of v2.0\n")
    assert "wide" not in output
    output = run("verify", "v2.0", "--sae", "release", "--member", "x", code=2).output
    assert "v2.0 has no member with --member 'x'; allowed: narrow, wide\n" in output


def test_checkpoints_are_named_one_by_one(project: Path, remeasured: None) -> None:
    arguments = ("--sae", "release/second", "--sae", "release/first")
    assert "confirmed: 2 of 2" in run("verify", "v2.0", *arguments).output


def test_a_root_names_members_of_a_release_without_a_manifest(
    project: Path, remeasured: None
) -> None:
    (project / "release" / FILE_NAME).unlink()
    (project / "release" / "first").rename(project / "release" / "wide")
    (project / "release" / "deep").mkdir()
    (project / "release" / "second").rename(project / "release" / "deep" / "narrow")
    sae = ("--sae", "release/wide", "--sae", "release/deep/narrow")
    assert "confirmed: 2 of 2" in run("verify", "v2.0", *sae).output
    output = run("verify", "v2.0", *sae, "--root", "release", code=2).output
    assert "no checkpoint is named narrow; there are: deep/narrow, wide" in output


def test_a_checkpoint_that_the_release_lacks_is_not_verified(
    project: Path, remeasured: None
) -> None:
    shutil.copytree(SAES / "v3", project / "release" / "third")
    manifest = Manifest(project / "release" / FILE_NAME, "v2.0", {**RELEASE, "new": "third"})
    manifest.file.write_text(to_yaml(manifest))
    result = run("verify", "v2.0", "--sae", "release", code=2)
    expected = f"2 of 2 members of v2.0; without a record: new ({project}/release/third)\n"
    assert result.stderr == f"confirmed: {expected}"


def test_two_checkpoints_of_one_name_are_not_verified(project: Path, remeasured: None) -> None:
    for folder in ("x", "y"):
        shutil.copytree(SAES / "v1", project / folder / "wide")
    sae = ("--sae", "x/wide", "--sae", "y/wide", "--sae", "release/second")
    result = run("verify", "v2.0", *sae, code=2)
    assert "2 checkpoints are named wide: " in result.stderr
    assert result.stderr.endswith("confirmed: 1 of 2 members of v2.0; not verified: wide\n")


def test_a_record_finds_its_checkpoint_in_the_folder_of_its_release(
    project: Path, remeasured: None
) -> None:
    wide, _ = records(project)
    output = run("verify", wide.id, "--sae", "release").output
    assert output.splitlines()[0].startswith(f"record    {wide.id} is unchanged")
    assert output.splitlines()[-1].endswith(f" numbers of {wide.id}")


def test_a_single_record_needs_no_name_of_its_checkpoint(project: Path, remeasured: None) -> None:
    wide, _ = records(project)
    (project / "release" / "first").rename(project / "release" / "unlisted")
    output = run("verify", wide.id, "--sae", "release/unlisted").output
    assert output.splitlines()[-1].endswith(f" numbers of {wide.id}")


def test_a_release_with_an_unreadable_record_is_not_verified(project: Path) -> None:
    (Path(records(project)[0].path) / "record.json").write_text("{")
    output = run("verify", "v2.0", "--sae", "release", code=2).output
    assert "NOT VERIFIED (infrastructure error): v2.0 cannot be read whole: " in output


def test_a_retracted_release_is_verified_with_a_notice(project: Path, remeasured: None) -> None:
    run("promote", "v2.0", "--as", "r2", "--reason", "good")
    run("retract", "r2", "--reason", "broken in layer 0")
    result = run("verify", "r2", "--sae", "release")
    assert result.stderr.startswith("r2 was retracted on 20")
    assert result.stderr.count("broken in layer 0\n") == 1
    assert result.output.endswith("confirmed: 2 of 2 members of r2\n")
