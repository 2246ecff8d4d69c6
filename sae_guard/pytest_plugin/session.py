"""The gate session of a pytest process, created when it is first needed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from sae_guard.pytest_plugin.options import OPTIONS
from sae_guard.pytest_plugin.plan import RUN_PLAN, plan_of

if TYPE_CHECKING:
    from sae_guard.gate.session import GateSession

_SESSION = pytest.StashKey["GateSession"]()
_PROGRESS = pytest.StashKey[TextIO | None]()
SHARED_FOLDER = pytest.StashKey[Path]()
"""Folder in which the workers of pytest-xdist share results."""
WORKER_INPUT = "sae_guard_shared"
"""Key of that folder in the input of a worker."""


def prepare(config: pytest.Config) -> None:
    """Store the shared folder and the stream for progress bars, before pytest captures output."""
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is not None:
        config.stash[SHARED_FOLDER] = Path(worker_input[WORKER_INPUT])
        config.stash[_PROGRESS] = None
        return
    # pytest does not capture yet, so this copy stays the stderr of the terminal.
    stderr = os.fdopen(os.dup(2), "w", encoding="utf-8")
    config.add_cleanup(stderr.close)
    interactive = stderr.isatty() and not os.environ.get("CI")
    config.stash[_PROGRESS] = stderr if interactive else None


def session_of(config: pytest.Config) -> GateSession:
    """Return the session of this process."""
    if _SESSION not in config.stash:
        from sae_guard.gate.session import GateSession
        from sae_guard.pytest_plugin.sharing import SharedFolder

        folder = config.stash.get(SHARED_FOLDER, None)
        config.stash[_SESSION] = GateSession(
            config.stash[OPTIONS].gate,
            lambda: plan_of(config).cases,
            baselines=config.stash[RUN_PLAN].baselines,
            shared_results=None if folder is None else SharedFolder(folder),
            worker=_worker_number(config),
            progress=config.stash[_PROGRESS],
        )
    return config.stash[_SESSION]


def _worker_number(config: pytest.Config) -> int:
    worker_input: dict[str, Any] = getattr(config, "workerinput", {})
    number = re.search(r"\d+$", worker_input.get("workerid", ""))
    return int(number.group()) if number else 0
