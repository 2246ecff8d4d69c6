"""The root folder of a project, and its spec files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.errors import SetupError
from sae_guard.gate.project import display, ini_file_of, named_spec, root_of, spec_files


def test_an_ini_file_without_a_pytest_section_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("")
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'a'\n")
    assert ini_file_of(folder) == tmp_path / "pytest.ini"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    assert ini_file_of(folder) == tmp_path / "a" / "pyproject.toml"


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
    folder = pytester.path / "below" / "deeper"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (pytester.path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    result = pytester.runpytest_inprocess("--collect-only")
    result.stdout.fnmatch_lines([f"rootdir: {root_of(folder)}"])


def test_specs_match_the_globs_and_are_named_by_path_or_stem(tmp_path: Path) -> None:
    for name in ("thresholds/b.yaml", "thresholds/a.yml", "thresholds/no.txt", "other/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    specs = spec_files(tmp_path)
    assert [display(path, tmp_path) for path in specs] == ["thresholds/a.yml", "thresholds/b.yaml"]
    assert [path.name for path in spec_files(tmp_path, ["other/*", "**/c.yaml"])] == ["c.yaml"]
    folder = tmp_path / "other"
    assert named_spec("c.yaml", folder, specs) == named_spec("../other/c.yaml", folder, specs)
    assert named_spec("a", folder, specs) == named_spec("a.yml", folder, specs) == specs[0]
    with pytest.raises(SetupError, match=r"'d' is no file and no spec .* allowed: a, b"):
        named_spec("d", folder, specs)
    assert display(Path("/elsewhere/s.yaml"), tmp_path) == "/elsewhere/s.yaml"
