"""Who recorded something, on what: versions, git, the user."""

from __future__ import annotations

import getpass
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

from sae_guard.history.record import GitRow


def environment() -> dict[str, str]:
    """Versions of Python, of this package and of what it depends on, and the platform."""
    found = {"platform": platform.platform(), "python": platform.python_version()}
    required = importlib.metadata.requires("sae-guard") or []
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    for name in ("sae-guard", *sorted(names)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git(folder: Path) -> GitRow | None:
    """The commit of a folder's repository; None where there is none, or no git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return GitRow(commit=commit, dirty=status != "")


def user(folder: Path) -> str:
    """By git's settings, or else the name of the account."""
    name, email = (_git(folder, "config", f"user.{key}") for key in ("name", "email"))
    if name or email:
        return " ".join(filter(None, [name, f"<{email}>" if email else None]))
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such account, as in containers
        return "unknown"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
