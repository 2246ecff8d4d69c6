"""The summary lists thresholds that are looser than at the last promoted version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sae_guard.core.threshold_changes import LoosenedThresholds
from sae_guard.history import History, Promotion, Recorded
from sae_guard.history.record import SCHEMA_VERSION
from tests.helpers.recorded import ordinary, record_one
from tests.pytest_plugin.projects import Project

CANNED = "import canned"
OLD = """\
name: tiny
model: gpt2
hook: blocks.1.hook_resid_post
data: {text: text.txt, prepend_bos: true, sequences: 8}
thresholds:
  kl: {max: 0.08}
  l0: {min: 1, max: 40}
  cosine: {min: 0.5}
"""
SAME = OLD.replace("0.08", "0.1").replace("  cosine: {min: 0.5}\n", "")
LOOSER = (
    "LOOSER than at v1.2 (promoted 2026-11-20 by A <a@b>): thresholds/tiny.yaml::tiny "
    "kl max 0.08 -> 0.1; cosine min 0.5 removed"
)
FOLDER = ".sae_guard/history"
UNREAD = "WARNING: thresholds of the last promoted version cannot be read: "


def promote(
    history: History,
    recorded: Recorded,
    label: str = "v1.2",
    created: datetime = datetime(2026, 11, 20, 10, 30, tzinfo=UTC),
    **row: str,
) -> str:
    """Promote a record, or a row that differs from its own; return the id of the promotion."""
    return history.promote(
        Promotion(
            schema_version=SCHEMA_VERSION, label=label, created=created, by="A <a@b>",
            records=(recorded.promoted.model_copy(update=row),), reason="good",
        )
    )  # fmt: skip


def released(project: Project, folder: str = FOLDER, text: str = OLD) -> tuple[History, Recorded]:
    """Record and promote a version."""
    history = History(str(project.path / folder))
    recorded = record_one(history, project.path / "before", ordinary(0.04), text=text)
    promote(history, recorded)
    return history, recorded


def gate(project: Project, *args: str) -> pytest.RunResult:
    """Gate ``good`` without measuring it."""
    return project.run_damaged(CANNED, "--sae", "good", "--sae-json", "out.json", *args)


def notices(result: pytest.RunResult) -> list[str]:
    """Return the lines on looser thresholds, and warnings."""
    return [line for line in result.outlines if line.startswith(("LOOSER", "WARNING"))]


def looser(project: Project) -> list[LoosenedThresholds]:
    """Return the looser thresholds in the JSON report."""
    return [case.loosened for case in project.report().cases if case.loosened]


def test_looser_thresholds_are_reported_in_every_mode(
    project: Project, mode: tuple[str, ...]
) -> None:
    released(project)
    result = gate(project, *mode)
    assert result.ret == 0
    assert notices(result) == [LOOSER]
    (loosened,) = looser(project)
    assert loosened.label == "v1.2"
    assert [(c.threshold, c.key, c.old, c.new) for c in loosened.changes] == [
        ("kl", "max", 0.08, 0.1), ("cosine", "min", 0.5, None),
    ]  # fmt: skip


def test_looser_thresholds_change_no_verdict_and_include_deselected_ones(
    project: Project,
) -> None:
    released(project)
    result = project.run_damaged(CANNED, "--sae", "bad", "--sae-record", "v1.3", "-k", "l0 or kl")
    assert result.ret == 1
    assert notices(result) == [LOOSER]
    result = project.run_damaged(CANNED, "--sae", "good", "-k", "explained")
    assert (result.ret, notices(result)) == (0, [LOOSER])


def test_without_looser_thresholds_nothing_is_reported(project: Project) -> None:
    result = gate(project)
    assert (result.ret, notices(result), looser(project)) == (0, [], [])
    assert not (project.path / FOLDER).exists()
    history, recorded = released(project, text=SAME)
    promote(history, recorded, "other", spec="thresholds/tiny.yaml::other")
    # A damaged record that no promotion names is not read.
    record_one(history, project.path / "before", ordinary(), text=OLD)
    for path in (project.path / FOLDER / "records").glob("2*"):
        if path.name != recorded.id:
            (path / "record.json").write_text("{")
    result = gate(project)
    assert (result.ret, notices(result), looser(project)) == (0, [], [])


def test_the_last_promotion_counts_whatever_its_label(project: Project) -> None:
    history, tight = released(project)
    loose = record_one(history, project.path / "before", ordinary(0.04), text=SAME)
    later = datetime(2026, 11, 20, 11, 30, tzinfo=UTC)
    promote(history, loose, "v1.1", created=later)
    assert notices(gate(project)) == []
    promote(history, tight, "v1.0", created=later + timedelta(minutes=1))
    assert notices(gate(project)) == [LOOSER.replace("v1.2", "v1.0")]


def test_thresholds_are_compared_with_the_configured_history(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(project, "versions")
    released(project, "named", SAME)
    monkeypatch.setenv("SAE_GUARD_HISTORY", "versions")
    assert notices(gate(project)) == [LOOSER]
    project.pytester.makefile(".ini", pytest="[pytest]\nsae_history = named\n")
    assert notices(gate(project)) == []
    url = (project.path / "versions").as_uri()
    project.pytester.makefile(".ini", pytest=f"[pytest]\nsae_history = {url}\n")
    assert notices(gate(project)) == [LOOSER]


def changed(project: Project, recorded: Recorded) -> str:
    file = Path(recorded.path) / "record.json"
    file.write_bytes(file.read_bytes().replace(b'"max": 0.08', b'"max": 0.11'))
    return f"thresholds/tiny.yaml::tiny at v1.2: {file} was changed since it was written*"


def gone(project: Project, recorded: Recorded) -> str:
    file = Path(recorded.path) / "record.json"
    file.unlink()
    return f"thresholds/tiny.yaml::tiny at v1.2: {file}: No such file*"


def no_id(project: Project, recorded: Recorded) -> str:
    created = datetime(2026, 11, 21, tzinfo=UTC)
    promote(History(str(project.path / FOLDER)), recorded, record="../../x", created=created)
    return "thresholds/tiny.yaml::tiny at v1.2: '../../x' is no id of a record"


def promotion(project: Project, recorded: Recorded) -> str:
    (file,) = (project.path / FOLDER / "promotions").glob("2*/promotion.json")
    file.write_text("{")
    return f"{file} was changed since it was written*"


def a_file(project: Project, recorded: Recorded) -> str:
    (project.path / ".sae_guard").rename(project.path / "moved")
    (project.path / ".sae_guard").write_text("")
    return "*/.sae_guard/history/promotions: Not a directory"


def nowhere(project: Project, recorded: Recorded) -> str:
    project.pytester.makefile(".ini", pytest="[pytest]\nsae_history = nowhere://h\n")
    return "nowhere://h/promotions: Protocol not known: nowhere"


@pytest.mark.parametrize("damage", [changed, gone, no_id, promotion, a_file, nowhere])
def test_an_unreadable_promotion_or_history_is_a_warning(project: Project, damage: Any) -> None:
    reason = damage(project, released(project)[1])
    result = gate(project)
    assert result.ret == 0
    assert len(notices(result)) == 1
    result.stdout.fnmatch_lines([f"{UNREAD}{reason}".replace("[", "[[]")])
    assert looser(project) == []


def test_a_run_that_gates_nothing_reads_no_history(project: Project) -> None:
    (project.path / ".sae_guard").write_text("no folder")
    project.pytester.makepyfile(test_mine="def test_mine(): pass")
    result = project.run("test_mine.py")
    assert (result.ret, notices(result)) == (0, [])
    result = project.run("--sae", "good", "--collect-only")
    assert (result.ret, notices(result)) == (0, [])


def test_specs_outside_the_run_are_not_compared(project: Project) -> None:
    released(project)
    other = project.spec.replace("name: tiny", "name: other")
    project.write_spec(other, "other.yaml")
    assert notices(gate(project)) == [LOOSER]
    assert notices(gate(project, "thresholds/tiny.yaml")) == [LOOSER]
    for args in (("--sae-spec", "other"), ("thresholds/other.yaml",)):
        result = gate(project, *args)
        assert (result.ret, notices(result)) == (0, [])
