"""The folder of a project, as pytest finds it, and the spec files in it. No torch here."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded

SPECS = ("thresholds/*.yaml", "thresholds/*.yml")
"""Globs of spec files, from the root folder."""

_INI_FILES = {
    "pytest.toml": "", ".pytest.toml": "", "pytest.ini": "", ".pytest.ini": "",
    "pyproject.toml": "[tool.pytest", "tox.ini": "[pytest]", "setup.cfg": "[tool:pytest]",
}  # fmt: skip
"""Files that pytest takes for its ini file, and what must stand in them."""


def root_of(here: Path) -> Path:
    """The folder that pytest, run here, takes for its root folder."""
    ini = ini_file_of(here)
    return root_without_ini(here, here) if ini is None else ini.parent


def ini_file_of(start: Path) -> Path | None:
    """The ini file of the nearest folder at or above ``start`` that has one."""
    for folder in (start, *start.parents):
        for name in _INI_FILES:
            if (folder / name).is_file() and is_ini(folder / name):
                return folder / name
    return None


def is_ini(path: Path) -> bool:
    """Whether pytest takes the file for its ini file."""
    sign = _INI_FILES.get(path.name, "")
    return sign in path.read_text(encoding="utf-8", errors="replace")


def root_without_ini(here: Path, start: Path) -> Path:
    """As pytest has it: a package's folder, else what holds the arguments and this folder."""
    for name in ("pyproject.toml", "setup.py"):
        for folder in (start, *start.parents):
            if (folder / name).is_file():
                return folder
    return Path(os.path.commonpath([here, start]))


def spec_files(root: Path, globs: Iterable[str] = SPECS) -> tuple[Path, ...]:
    """What the globs match below the root folder, sorted."""
    found = (glob.glob(str(root / pattern), recursive=True) for pattern in globs)
    return tuple(sorted({Path(name) for names in found for name in names}))


def named_spec(text: str, here: Path, known: Sequence[Path]) -> Path:
    """The spec file that is meant by a path, or by the name of one of the ``known``.

    Raises:
        SetupError: There is none.
    """
    path = Path(os.path.normpath(here / expanded(text)))
    if path.is_file():
        return path
    by_name = {spec.stem: spec for spec in known} | {spec.name: spec for spec in known}
    if text not in by_name:
        hint = allowed(text, {spec.stem for spec in known})
        raise SetupError(f"{text!r} is no file and no spec of this project; {hint}")
    return by_name[text]


def display(path: Path, root: Path) -> str:
    """The path from the root folder, as node ids show it and records keep it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
