"""Where a project is, and which specs are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.errors import SetupError
from sae_guard.gate.project import display, ini_file_of, named_spec, root_of, spec_files


def test_the_nearest_ini_file_counts_only_if_it_is_pytests(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("")
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'a'\n")
    assert ini_file_of(below) == tmp_path / "pytest.ini"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    assert ini_file_of(below) == tmp_path / "a" / "pyproject.toml"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"pytest.ini": "[pytest]\n"},
        {"pyproject.toml": "[project]\nname = 'a'\n"},
        {"pyproject.toml": "[tool.pytest.ini_options]\n"},
        {"setup.py": ""},
        {"tox.ini": "[tox]\n", "below/pytest.ini": ""},
        {"pytest.ini": "", "below/pyproject.toml": "[project]\nname = 'a'\n"},
    ],
    ids=str,
)
def test_the_root_is_that_of_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    below = pytester.path / "below" / "deeper"
    below.mkdir(parents=True)
    for name, text in files.items():
        (pytester.path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(below)
    result = pytester.runpytest_inprocess("--collect-only")
    result.stdout.fnmatch_lines([f"rootdir: {root_of(below)}"])


def test_specs_are_found_below_the_root_and_named_by_path_or_stem(tmp_path: Path) -> None:
    for name in ("thresholds/b.yaml", "thresholds/a.yml", "thresholds/no.txt", "other/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = spec_files(tmp_path)
    assert [display(path, tmp_path) for path in found] == ["thresholds/a.yml", "thresholds/b.yaml"]
    assert [path.name for path in spec_files(tmp_path, ["other/*", "**/c.yaml"])] == ["c.yaml"]
    below = tmp_path / "other"
    assert named_spec("c.yaml", below, found) == named_spec("../other/c.yaml", below, found)
    assert named_spec("a", below, found) == named_spec("a.yml", below, found) == found[0]
    with pytest.raises(SetupError, match=r"'d' is no file and no spec of this project; allowed: a"):
        named_spec("d", below, found)
    assert display(Path("/elsewhere/s.yaml"), tmp_path) == "/elsewhere/s.yaml"
