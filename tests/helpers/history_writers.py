"""Writers of records and promotions in processes of their own, to be killed or to race.

The server that forks them imports this module, and so all that is slow, once.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import uuid4

from sae_guard.history import History, Promotion
from sae_guard.history.record import SCHEMA_VERSION
from tests.helpers.recorded import a_case, built, ordinary

WAITS = 100.0
"""Seconds after which another process is taken to hang."""
_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir"}

MEASUREMENT = ordinary()
with tempfile.TemporaryDirectory() as _folder:
    RECORD, FILES = built(a_case(Path(_folder)), MEASUREMENT)


def write(history: History, report: Callable[[str], None]) -> None:
    """Keep a record and promote it; each is told of once it is said to be kept."""
    recorded = history.add(RECORD.model_copy(update={"run": uuid4().hex}), FILES)
    report(f"record {recorded.id}")
    promotion = Promotion(
        schema_version=SCHEMA_VERSION, label="v1", records=(recorded.promoted,), by="someone",
        created=datetime.now(UTC), reason=uuid4().hex,
    )  # fmt: skip
    report(f"promotion {promotion.reason}" if history.promote(promotion) else "")


def killed(folder: Path, log: Path, how: str, at: float) -> None:
    """Write until killed.

    Args:
        folder: Of the history.
        log: Gets a line for each thing that is said to be kept.
        how: ``operation``: at the file operation of this number; ``byte``: in the middle of writing
            a file, at this byte; ``second``: so long after the first is said to be kept.
        at: Where.
    """
    remaining = count(int(at), -1)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        inside = event in _EVENTS and str(folder) in str(arguments[0])
        if inside and next(remaining) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if how == "operation":
        sys.addaudithook(watch)
    if how == "byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(at), int(at)))
    if how == "second":
        write(History(str(folder)), _telling(log))
        signal.setitimer(signal.ITIMER_REAL, at)
    while True:
        write(History(str(folder)), _telling(log))


def racing(folder: Path, log: Path, times: int, barrier: Barrier) -> None:
    """Write so many times, at the same time as the others."""
    barrier.wait(timeout=WAITS)
    for _ in range(times):
        write(History(str(folder)), _telling(log))


def _telling(log: Path) -> Callable[[str], None]:
    def tell(line: str) -> None:
        with log.open("a") as file:  # a line this short is appended whole
            file.write(line + "\n")

    return tell
