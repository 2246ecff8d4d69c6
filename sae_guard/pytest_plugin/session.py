"""The workbench of a test process, made as the options say, and what xdist workers share.

Whoever takes a case's lock first measures it, and leaves what it found. Errors are left for the
others too, with their cause.
"""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sae_guard.errors import Contract, InfrastructureError, LoadError, SaeGuardError, SetupError
from sae_guard.gate.early import Judged
from sae_guard.gate.session import Workbench
from sae_guard.pytest_plugin.gate import GATE
from sae_guard.pytest_plugin.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_guard.cache import Cache
    from sae_guard.gate.cases import Case
    from sae_guard.gate.session import Found


WORKBENCH = pytest.StashKey[Workbench]()


def make_workbench(config: pytest.Config, options: Options, folder: Path | None) -> Workbench:
    """The workbench of this process; of an xdist worker, with what it shares in ``folder``."""
    asked: dict[str, Any] = {
        "device": options.device,
        "batch_size": options.batch_size,
        "reference": options.reference,
        "early": options.early,
        "cache": partial(_cache, options),
        "cases": lambda: config.stash[GATE].plan.cases,
    }
    if folder is None:
        # Capture is not on yet, so this is the terminal's stderr for good.
        progress = os.fdopen(os.dup(2), "w", encoding="utf-8")
        config.add_cleanup(progress.close)
        shown = progress if progress.isatty() and not os.environ.get("CI") else None
        return Workbench(**asked, progress=shown)
    worker_input: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    number = re.search(r"\d+$", worker_input["workerid"])
    worker = int(number.group()) if number else 0
    return Workbench(**asked, share=partial(shared, folder), worker=worker)


def _cache(options: Options) -> Cache | None:
    from sae_guard.cache import Cache, chosen_root

    root = chosen_root(options.cache)
    return Cache(options.here / root, int(options.cache_gib * 2**30)) if root else None


def shared(folder: Path, key: str, case: Case, make: Callable[[], Found]) -> Found:
    """What the first process to ask makes.

    Args:
        folder: Of the run.
        key: Of what is made, in it.
        case: What it is of.
        make: Called by that process.
    """
    from filelock import FileLock

    from sae_guard.gate.measurement_file import save

    path = folder / key
    stored, told, error = _files(path)
    with FileLock(path.with_name(f"{path.name}.lock")):
        found = left(path, case)
        if found is not None:
            return found
        result = make()
        if isinstance(result, SaeGuardError):
            contract = getattr(result, "contract", None)
            error.write_text(json.dumps([result.cause, str(result), contract]), encoding="utf-8")
        else:
            told.write_text(json.dumps(result.to_json()), encoding="utf-8")
            save(result.measurement, stored)
        return result


def left(path: Path, case: Case) -> Found | None:
    """What a process made; None where none has made it yet."""
    from sae_guard.gate.measurement_file import load

    stored, told, error = _files(path)
    if stored.exists():
        return Judged.from_json(load(stored), case, json.loads(told.read_text("utf-8")))
    if error.exists():
        return _revived(*json.loads(error.read_text("utf-8")))
    return None


def _files(path: Path) -> tuple[Path, Path, Path]:
    """Of the measurement, of what is beside it, and of the error in its place."""
    stored, told, error = (
        path.with_name(path.name + suffix) for suffix in (".npz", ".json", ".error")
    )
    return stored, told, error


def _revived(cause: str, message: str, contract: Contract | None) -> SaeGuardError:
    """The error that another process had."""
    if contract is not None:
        return LoadError(message, contract)
    return {"setup": SetupError, "infrastructure": InfrastructureError}[cause](message)
