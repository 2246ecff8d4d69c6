"""Share results between workers of pytest-xdist: the first one to lock a case measures it.

Errors are shared too, with their cause.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from sae_guard.core.diagnosis import Diagnosis
from sae_guard.core.report_json import from_plain, to_plain
from sae_guard.errors import InfrastructureError, LoadError, SaeGuardError, SetupError
from sae_guard.gate.early import Judged
from sae_guard.gate.measurement_file import load, save
from sae_guard.gate.session import JudgedOrError


class SharedFolder:
    """Folder of the run in which processes share results: `SharedResults` as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def judged(self, key: str, compute: Callable[[], JudgedOrError]) -> JudgedOrError:
        """Return the result that another process stored, or compute and store it."""
        with FileLock(self._folder / f"{key}.lock"):
            stored = self.result(key)
            if stored is not None:
                return stored
            result = compute()
            if isinstance(result, SaeGuardError):
                self._write(f"{key}.error", _error_to_plain(result))
            else:
                self._write(f"{key}.json", result.to_plain())
                save(result.measurement, self._folder / f"{key}.npz")
            return result

    def result(self, key: str) -> JudgedOrError | None:
        """Read the result that a process stored; None without one."""
        path = self._folder / f"{key}.npz"
        if path.exists():
            return Judged.from_plain(load(path), self._read(f"{key}.json"))
        if (self._folder / f"{key}.error").exists():
            return _error_from_plain(self._read(f"{key}.error"))
        return None

    def diagnosis(self, key: str, compute: Callable[[], Diagnosis]) -> Diagnosis:
        """Return the diagnosis that another process stored, or compute and store it."""
        name = f"{key}.diagnosis"
        with FileLock(self._folder / f"{name}.lock"):
            if (self._folder / name).exists():
                stored: Diagnosis = from_plain(Diagnosis, self._read(name), source=name)
                return stored
            result = compute()
            self._write(name, to_plain(Diagnosis, result))
            return result

    def _write(self, name: str, plain: Any) -> None:
        (self._folder / name).write_text(json.dumps(plain), encoding="utf-8")

    def _read(self, name: str) -> Any:
        return json.loads((self._folder / name).read_text("utf-8"))


def _error_to_plain(error: SaeGuardError) -> dict[str, Any]:
    contract = getattr(error, "contract", None)
    return {
        "cause": error.cause,
        "message": str(error),
        "options": list(error.options),
        "contract": contract,
    }


def _error_from_plain(plain: dict[str, Any]) -> SaeGuardError:
    options = tuple(plain["options"])
    if plain["contract"] is not None:
        return LoadError(plain["message"], plain["contract"], options=options)
    classes = {"setup": SetupError, "infrastructure": InfrastructureError}
    return classes[plain["cause"]](plain["message"], options=options)
