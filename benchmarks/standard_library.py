"""Text for SmolLM2: the Python standard library of the running installation, in two parts.

Nothing of it is copied into the repository. The held-out part is a fixed list of module names, so
it is nearly (not bit for bit) the same text under every Python version.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Top-level modules that are one plain .py file in every CPython from 3.11 to 3.14.
HELD_OUT_MODULES = (
    "argparse",
    "bdb",
    "calendar",
    "configparser",
    "copy",
    "csv",
    "dataclasses",
    "difflib",
    "dis",
    "doctest",
    "enum",
    "fractions",
    "ftplib",
    "gettext",
    "heapq",
    "imaplib",
    "ipaddress",
    "mailbox",
    "optparse",
    "pickletools",
    "plistlib",
    "pprint",
    "random",
    "shutil",
    "smtplib",
    "statistics",
    "subprocess",
    "tarfile",
    "textwrap",
    "threading",
    "trace",
    "uuid",
)
"""Modules of the standard library that neither the model nor the SAEs were trained on."""

_EXCLUDED_FOLDERS = frozenset(
    {
        "__pycache__",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
        # Not prose and not programs: tables of code points, and a rendered manual that quotes the
        # documentation of the held-out modules.
        "encodings",
        "pydoc_data",
    }
)

# Written when Python was built: compiler flags and paths of one machine.
_BUILD_RECORD = "_sysconfigdata"


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def held_out_texts() -> Iterator[str]:
    """Yield the source of each held-out module, in the order of ``HELD_OUT_MODULES``."""
    for name in HELD_OUT_MODULES:
        yield _read(_standard_library() / f"{name}.py")


def training_texts() -> Iterator[str]:
    """Yield the source of every other module of the standard library, sorted by path."""
    library = _standard_library()
    held_out = {library / f"{name}.py" for name in HELD_OUT_MODULES}
    # Sorted by the parts of the path, because the separator differs between systems.
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        folders = path.relative_to(library).parts[:-1]
        if path in held_out or _EXCLUDED_FOLDERS.intersection(folders):
            continue
        if path.name.startswith(_BUILD_RECORD) or any(f.startswith("config-") for f in folders):
            continue
        yield _read(path)
