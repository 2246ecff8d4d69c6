"""Between xdist workers: whoever takes a case's lock first measures it, and leaves what it found.

Errors are left for the others too, with their cause.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sae_guard.errors import Contract, InfrastructureError, LoadError, SaeGuardError, SetupError
from sae_guard.pytest_plugin.early import Judged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sae_guard.cases import Case


def shared(
    path: Path, case: Case, make: Callable[[], Judged | SaeGuardError]
) -> Judged | SaeGuardError:
    """What the first process to ask makes.

    Args:
        path: Without suffix; what is made lies there.
        case: What it is of.
        make: Called by that process.
    """
    from filelock import FileLock

    from sae_guard.measurement import save

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


def left(path: Path, case: Case) -> Judged | SaeGuardError | None:
    """What a process made; None where none has made it yet."""
    from sae_guard.measurement import load

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
