"""Checkpoints outside the project do not change the root folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pytest_plugin.projects import PARTS, Project


@pytest.fixture
def outside(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of ``good`` outside the project."""
    folder = tmp_path_factory.mktemp("elsewhere") / "releases"
    shutil.copytree(project.path / "good", folder / "good")
    return folder / "good"


@pytest.mark.parametrize(
    "workers",
    [pytest.param((), id="plain"), pytest.param(("-n2",), id="-n2", marks=pytest.mark.slow)],
)
def test_without_an_ini_file_the_root_folder_is_corrected(
    project: Project, outside: Path, workers: tuple[str, ...]
) -> None:
    (project.path / "pytest.ini").unlink()
    result = project.run_damaged("import canned", "--sae", str(outside), "-v", *workers)
    assert result.ret == 0
    result.assert_outcomes(passed=PARTS + 3)
    result.stdout.fnmatch_lines(["*thresholds/tiny.yaml::tiny::kl[[]good]*"])
    assert not (outside / ".pytest_cache").exists()
    assert (project.path / ".pytest_cache").exists()


def test_an_ini_file_that_pytest_misses_is_an_error_with_a_remedy(
    project: Project, outside: Path
) -> None:
    result = project.run("--sae", str(outside))
    assert result.ret == 4
    expected = f"*reads no ini file instead of {project.path}/pytest.ini; write --sae={outside}"
    result.stderr.fnmatch_lines([expected])
    project.run(f"--sae={outside}").assert_outcomes(passed=PARTS + 3)
    project.run(f"--sae={outside}", "thresholds/tiny.yaml").assert_outcomes(passed=PARTS + 3)
    project.run("--sae", str(outside), "-c", "pytest.ini").assert_outcomes(passed=PARTS + 3)
    project.run("--sae", str(outside), "--rootdir", ".").assert_outcomes(passed=PARTS + 3)


def test_a_checkpoint_inside_the_project_needs_no_correction(project: Project) -> None:
    for ini in ("pytest.ini", None):
        if ini is None:
            (project.path / "pytest.ini").unlink()
        project.run("--sae", "good").assert_outcomes(passed=PARTS + 3)
        project.run("--sae", str(project.path / "good")).assert_outcomes(passed=PARTS + 3)


def test_the_ini_file_of_another_project_is_an_error(project: Project, outside: Path) -> None:
    (project.path / "pytest.ini").unlink()
    (outside / "pytest.ini").write_text("[pytest]\n")
    result = project.run("--sae", str(outside))
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*reads {outside}/pytest.ini instead of none; write --sae=*"])


def test_a_pyproject_without_a_pytest_section_marks_the_root_folder(
    project: Project, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.path / "pytest.ini").unlink()
    (project.path / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    folder = project.path / "below"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for checkpoint in ("../good", str(outside)):
        project.run("--sae", checkpoint).assert_outcomes(passed=PARTS + 3)
