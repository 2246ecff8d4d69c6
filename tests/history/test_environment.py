"""Who recorded, and with what."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from sae_guard.history import environment
from sae_guard.history.record import GitRow


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _no_other_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / "none"))


def test_the_commit_and_whether_tracked_files_differ_from_it(tmp_path: Path) -> None:
    assert environment.git(tmp_path) is None
    git(tmp_path, "init")
    assert environment.git(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("1")
    assert environment.git(tmp_path) == GitRow(commit=commit, dirty=False)
    (tmp_path / "a").write_text("2")
    assert environment.git(tmp_path) == GitRow(commit=commit, dirty=True)


def test_the_user_is_gits_or_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "someone")
    assert environment.user(tmp_path) == "someone"
    git(tmp_path, "init")
    git(tmp_path, "config", "user.name", "Ada")
    assert environment.user(tmp_path) == "Ada"
    git(tmp_path, "config", "user.email", "ada@example.org")
    assert environment.user(tmp_path) == "Ada <ada@example.org>"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "someone")
    assert environment.git(Path(__file__).parent) is None
    assert environment.user(Path(__file__).parent) == "someone"


def test_the_versions_of_everything_that_it_depends_on_are_told() -> None:
    found = environment.environment()
    for name in ("sae-guard", "torch", "transformers", "transformer-lens", "numpy"):
        assert found[name] == importlib.metadata.version(name)
    assert {"python", "platform"} <= found.keys()
    assert "ruff" not in found
