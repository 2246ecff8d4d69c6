"""``sae-guard measure --record`` keeps what ``pytest --sae-record`` does."""

from __future__ import annotations

import pytest

from sae_guard.history import History
from tests.helpers.small_demo import run
from tests.pytest_plugin.projects import Project


def test_the_record_is_that_of_pytest(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    project.run("--sae", "good", "--sae", "bad", "--sae-record", "v1")
    run("measure", "good", "bad", "--record", "v1")
    history = History(str(project.path / ".sae_guard" / "history"))
    found, _ = history.records()
    assert len(found) == 4
    for by_pytest, by_command in zip(found[:2], found[2:], strict=True):
        own = {"run", "created"}
        told = by_pytest.record.model_dump(exclude=own)
        assert by_command.record.model_dump(exclude=own) == told
        assert by_command.spec == by_pytest.spec == "thresholds/tiny.yaml::tiny"
