"""Records and promotions whose writers are killed at any moment, or write at the same time."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from sae_guard.history import History, read_measurement
from sae_guard.history.record import to_json
from tests.helpers import history_writers
from tests.helpers.history_writers import RECORD, WAITS
from tests.helpers.recorded import bits

WRITERS, TIMES = 8, 10
OPERATIONS = 60
"""Of a writer before it is killed: it writes some records whole, and one not."""
CONTEXT = get_context("forkserver")


@pytest.fixture(autouse=True, scope="module")
def _imported_once() -> None:
    CONTEXT.set_forkserver_preload(["tests.helpers.history_writers"])


def told(logs: Path) -> tuple[set[str], set[str]]:
    """Ids of the records and reasons of the promotions that were said to be kept."""
    texts = [path.read_text() for path in logs.iterdir()]
    lines = [line.split() for text in texts for line in text.splitlines()]
    records, promotions = (
        {name for kind, name in lines if kind == which} for which in ("record", "promotion")
    )
    return records, promotions


def check(history: History, logs: Path) -> tuple[int, int]:
    """All that was said to be kept is there, and all that is there is whole; how many they are."""
    records, unreadable = history.records()
    promotions, more = history.promotions()
    assert (unreadable, more) == ((), ())
    for recorded in records:
        assert bits(read_measurement(recorded)) == bits(history_writers.MEASUREMENT)
    kept = {each.id for each in records}
    said, promoted = told(logs)
    assert said <= kept
    assert promoted <= {each.reason for each in promotions}
    assert {row.record for each in promotions for row in each.records} <= kept
    return len(records), len(said)


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_is_half_or_lost_when_writers_are_killed(tmp_path: Path, kills: int) -> None:
    history, logs = History(str(tmp_path / "h")), tmp_path / "logs"
    logs.mkdir()
    chosen = random.Random(0)
    ways: dict[str, Callable[[], float]] = {
        "operation": lambda: chosen.randrange(OPERATIONS),
        "byte": lambda: chosen.randrange(1, len(to_json(RECORD))),
        "second": lambda: chosen.uniform(0.0001, 0.03),
    }
    for kill in range(kills):
        how = ("operation", "byte", "second", "operation")[kill % 4]
        writer = CONTEXT.Process(
            target=history_writers.killed,
            args=(tmp_path / "h", logs / str(kill), how, ways[how]()),
            daemon=True,
        )
        writer.start()
        writer.join(WAITS)
        assert -(writer.exitcode or 0) in {
            "operation": (signal.SIGKILL,), "byte": (signal.SIGXFSZ,), "second": (signal.SIGALRM,),
        }[how]  # fmt: skip
    kept, said = check(history, logs)
    partial = list((tmp_path / "h").glob("*/.partial/*"))
    # They were killed before, in the middle of and after what they wrote. Of a few kills by chance
    # fewer than half are in the middle.
    least = kills / (2 if kills >= 100 else 4)
    assert kept > least
    assert least < len(partial) <= kills
    assert kept - said <= kills


def test_all_records_of_writers_that_race_are_there(tmp_path: Path) -> None:
    history, logs = History(str(tmp_path / "h")), tmp_path / "logs"
    logs.mkdir()
    barrier = CONTEXT.Barrier(WRITERS)
    writers = [
        CONTEXT.Process(
            target=history_writers.racing,
            args=(tmp_path / "h", logs / str(number), TIMES, barrier),
            daemon=True,
        )
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(WAITS)
        assert writer.exitcode == 0
    assert check(history, logs) == (WRITERS * TIMES, WRITERS * TIMES)
    assert len(history.promotions()[0]) == WRITERS * TIMES
    assert list((tmp_path / "h").glob("*/.partial/*")) == []
