"""Find the root folder of a project as pytest does, and its spec files. Imports no torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded

SPECS = ("thresholds/*.yaml", "thresholds/*.yml")
"""Globs of spec files, relative to the root folder."""

_INI_FILES = {
    "pytest.toml": "", ".pytest.toml": "", "pytest.ini": "", ".pytest.ini": "",
    "pyproject.toml": "[tool.pytest", "tox.ini": "[pytest]", "setup.cfg": "[tool:pytest]",
}  # fmt: skip
"""Name of a file that pytest may take for its ini file → text that it must contain."""


def root_of(folder: Path) -> Path:
    """Return the root folder of a pytest run that starts in this folder."""
    ini = ini_file_of(folder)
    return root_without_ini(folder, folder) if ini is None else ini.parent


def ini_file_of(start: Path) -> Path | None:
    """Return the ini file of the nearest folder at or above ``start``; None without any."""
    for folder in (start, *start.parents):
        for name in _INI_FILES:
            if (folder / name).is_file() and is_ini(folder / name):
                return folder / name
    return None


def is_ini(path: Path) -> bool:
    """Return whether pytest takes the file for its ini file."""
    section = _INI_FILES.get(path.name, "")
    return section in path.read_text(encoding="utf-8", errors="replace")


def root_without_ini(working_folder: Path, start: Path) -> Path:
    """Return the root folder of a pytest run without an ini file.

    It is the nearest folder at or above ``start`` with a ``pyproject.toml`` or ``setup.py``; else
    the one that contains both folders.

    Args:
        working_folder: Folder that pytest runs in.
        start: Folder that contains all paths among pytest's arguments.
    """
    for name in ("pyproject.toml", "setup.py"):
        for folder in (start, *start.parents):
            if (folder / name).is_file():
                return folder
    return Path(os.path.commonpath([working_folder, start]))


def spec_files(root: Path, globs: Iterable[str] = SPECS) -> tuple[Path, ...]:
    """Return the files below the root folder that match a glob, sorted."""
    matches = (glob.glob(str(root / pattern), recursive=True) for pattern in globs)
    return tuple(sorted({Path(name) for names in matches for name in names}))


def named_spec(text: str, folder: Path, project_specs: Sequence[Path]) -> Path:
    """Return the spec file that a path or a name refers to.

    Args:
        text: A path, or the name of a spec file of the project, with or without its suffix.
        folder: Folder that a relative path starts from.
        project_specs: Spec files of the project.

    Raises:
        SetupError: There is no such file.
    """
    path = Path(os.path.normpath(folder / expanded(text)))
    if path.is_file():
        return path
    by_name = {spec.stem: spec for spec in project_specs}
    by_name |= {spec.name: spec for spec in project_specs}
    if text not in by_name:
        hint = allowed(text, {spec.stem for spec in project_specs})
        raise SetupError(f"{text!r} is no file and no spec of this project; {hint}")
    return by_name[text]


def display(path: Path, root: Path) -> str:
    """Return the path relative to the root folder, as in node ids and records."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
