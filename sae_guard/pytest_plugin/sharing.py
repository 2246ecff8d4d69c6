"""Share results between workers of pytest-xdist: the first one to lock a result computes it.

Errors are results too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from sae_guard.errors import InfrastructureError
from sae_guard.files import write_whole
from sae_guard.gate.session import Result

# What `pickle` raises for bytes that are cut short or damaged, or of another version of a class.
_UNREADABLE = (OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError)


class SharedFolder:
    """Folder of the run in which processes share results: `SharedResults` as files.

    The files are pickles, so only processes of the run may be able to write into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def computed_once(self, key: str, compute: Callable[[], Result]) -> Result:
        """Return the result that another process stored, or compute and store it."""
        # The kernel frees it if its holder is killed: another worker then computes.
        with FileLock(self._folder / f"{key}.lock"):
            result: Result | None = self.stored(key)
            if result is None:
                result = compute()
                write_whole(self._path(key), pickle.dumps(result))
            return result

    def stored(self, key: str) -> Any:
        """Read the result that a process stored; None without one.

        Raises:
            InfrastructureError: The file is unreadable.
        """
        try:
            return pickle.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            raise InfrastructureError(f"{self._path(key)} is no readable result: {error}") from None

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.pickle"
