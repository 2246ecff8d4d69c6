"""Describe who records something, and on what: versions, git commit, user."""

from __future__ import annotations

import getpass
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

from sae_guard.history.record import GitRow


def environment() -> dict[str, str]:
    """Return the platform, and the versions of Python, of this package and of its dependencies."""
    versions = {"platform": platform.platform(), "python": platform.python_version()}
    required = importlib.metadata.requires("sae-guard") or []
    # Packages of extras need not be installed.
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    for name in ("sae-guard", *sorted(names)):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git(folder: Path) -> GitRow | None:
    """Return the commit of a folder's repository; None without a commit, repository or git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    # None, where git failed, counts as dirty: nothing says that the commit is all there is.
    return GitRow(commit=commit, dirty=status != "")


def user(folder: Path) -> str:
    """Return the user's name and address by git's settings, or else the name of the account."""
    name, email = (_git(folder, "config", f"user.{key}") for key in ("name", "email"))
    if name or email:
        return " ".join(filter(None, [name, f"<{email}>" if email else None]))
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such account, as in containers
        return "unknown"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
