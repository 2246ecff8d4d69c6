"""``sae-guard measure --record`` writes the same record as ``pytest --sae-record``."""

from __future__ import annotations

import pytest

from sae_guard.history import History
from tests.helpers.small_demo import run
from tests.pytest_plugin.projects import Project


def test_the_command_and_pytest_write_equal_records(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAE_GUARD_CACHE", "off")
    project.run("--sae", "good", "--sae", "bad", "--sae-record", "v1")
    run("measure", "good", "bad", "--record", "v1")
    history = History(str(project.path / ".sae_guard" / "history"))
    records, _ = history.records()
    assert len(records) == 4
    for by_pytest, by_command in zip(records[:2], records[2:], strict=True):
        run_facts = {"run", "created"}
        expected = by_pytest.record.model_dump(exclude=run_facts)
        assert by_command.record.model_dump(exclude=run_facts) == expected
        assert by_command.spec == by_pytest.spec == "thresholds/tiny.yaml::tiny"
