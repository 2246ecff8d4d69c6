"""Measurements that are killed at any moment, and measurements that run at the same time."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock, Timeout

from sae_guard.cache import Cache
from sae_guard.core.measurement import Measurement
from sae_guard.engine import HookSite
from sae_guard.engine.batches import batches
from sae_guard.engine.memory import Memory, run_name
from tests.helpers import killed
from tests.helpers.killed import MLP, RESIDUAL, SHARD, WAITS, Case, N, Stop, windows_run
from tests.helpers.small_measurements import assert_equal

HOOKS = (RESIDUAL, MLP)
KILLS, CORPORA = 50, 3
EVENTS = ("open", "os.rename")
CONTEXT = get_context("forkserver")
ONCE = Counter(range(N))


class Child:
    """A measurement in a process of its own, as `killed.child` does it."""

    def __init__(self, case: Case, folder: Path, log: Path, **more: Any) -> None:
        self._connection, theirs = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(
            target=killed.child, args=(case, folder, log, theirs), kwargs=more, daemon=True
        )
        self._process.start()
        theirs.close()

    def expect(self, message: str) -> None:
        """Wait until it says so."""
        assert self._connection.poll(WAITS), f"no {message!r}"
        assert self._connection.recv() == message

    def silent(self, seconds: float) -> bool:
        """Return True if the process sends nothing for so many seconds."""
        return not self._connection.poll(seconds)

    def kill(self, *, after: float = 0.0) -> None:
        """Kill it once it has worked so many seconds more, unless it ends before."""
        deadline = time.monotonic() + WAITS
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            start = sum(process.cpu_times()[:2])
            while sum(process.cpu_times()[:2]) < start + after and process.is_running():
                assert time.monotonic() < deadline, "it hangs"
                time.sleep(0.002)
            process.kill()

    def result(self) -> tuple[Measurement, float] | None:
        """Return the measurement and the seconds of work; None if the process was killed."""
        message: Any = None
        with suppress(EOFError, OSError):
            while not isinstance(message, tuple):
                assert self._connection.poll(WAITS), "it hangs"
                message = self._connection.recv()
        self._process.join(WAITS)
        code = self._process.exitcode
        self._process.close()
        self._connection.close()
        if isinstance(message, tuple):
            assert code in (0, -signal.SIGKILL)
            return message
        assert code == -signal.SIGKILL
        return None

    def measurement(self) -> Measurement:
        """Return the measurement of a process that was not killed."""
        result = self.result()
        assert result is not None
        return result[0]


@pytest.fixture(scope="module", autouse=True)
def model(model_folders: dict[str, Path]) -> Iterator[None]:
    """The model of all processes, this one included; their server has it loaded."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(killed.MODEL, str(model_folders["gpt2"]))
        killed.in_small_shards(patch.setattr)
        CONTEXT.set_forkserver_preload(["pytest", "tests.helpers.killed"])
        killed.the_model()
        yield
    killed.the_model.cache_clear()
    torch.set_num_threads(threads)


@cache
def reference(case: Case) -> Measurement:
    """Without a cache."""
    return killed.measured(case, None)


def assert_right(measurement: Measurement, case: Case) -> None:
    """Check that no sequence is missing or counted twice."""
    assert_equal(measurement, reference(replace(case, batch_size=SHARD)))
    assert measurement.provenance.paths["forward"] == "from block 1 on"


def memory_of(case: Case, folder: Path) -> Memory:
    """Return the cache entry, in the folder, of the model and corpus of the case."""
    return Memory.from_cache(Cache(folder), killed.the_model(), killed.the_corpus(case.corpus))


def saved(case: Case, folder: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the mask of the windows that are done in the cached run of the SAE."""
    tensors = memory_of(case, folder).read(
        run_name(killed.the_sae(case.sae), HookSite(case.hook, case.hook))
    )
    return np.zeros(N, dtype=np.bool_) if tensors is None else tensors["done"].numpy()


def lock_is_held(case: Case, folder: Path, name: str) -> bool:
    """Return True if a process holds a lock whose name starts with ``name``."""
    entry = memory_of(case, folder).entry
    assert entry is not None
    for path in entry.folder.rglob("*.lock"):
        if f"locks/{name}" in path.as_posix():
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                return True
    return False


def go_on(case: Case, folder: Path, log: Path) -> int:
    """Continue a run, check that only missing windows are run; return the number of saved ones."""
    is_done = saved(case, folder)
    due = [rows for rows in batches(0, N, case.batch_size, SHARD) if not is_done[rows].all()]
    log.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        killed.log_windows(log, patch.setattr)
        measurement = killed.measured(case, folder)
    assert_right(measurement, case)
    expected = Counter(row for rows in due for row in range(rows.start, rows.stop))
    assert windows_run(log)["patched"] == expected
    return int(is_done.sum())


def go_on_elsewhere(case: Case, folder: Path, copy: Path) -> int:
    """Call `go_on` in a copy, so that the folder stays as the killed process left it."""
    entry = memory_of(case, copy).entry
    assert entry is not None
    shutil.rmtree(copy)

    def other_entries(parent: str, names: list[str]) -> list[str]:
        """Return the entries of other corpora, which take long to copy."""
        return [name for name in names if Path(parent).name == "v1" and name != entry.key]

    shutil.copytree(folder, copy, ignore=other_entries)
    return go_on(case, copy, copy / ".log")


@pytest.mark.slow
def test_measurement_killed_at_random_moments_continues_correctly(tmp_path: Path) -> None:
    chance, folder, log = random.Random(0), tmp_path / "cache", tmp_path / "log"
    folder.mkdir()
    undisturbed = Child(Case(MLP), tmp_path / "other", log).result()
    assert undisturbed is not None
    seconds = undisturbed[1]
    kills, came_through, progress = 0, 0, list[int]()
    for corpus in range(CORPORA):
        cases = {hook: Case(hook, corpus=corpus) for hook in HOOKS}
        touched = set[Case]()
        while kills < KILLS * (corpus + 1) // CORPORA:
            case = replace(cases[chance.choice(HOOKS)], batch_size=chance.choice([1, 2, 4]))
            touched.add(replace(case, batch_size=SHARD))
            child = Child(case, folder, log)
            child.expect("begins")
            child.kill(after=chance.uniform(0, 0.6 * seconds))
            result = child.result()
            if result is None:
                kills += 1
                if kills % 2:
                    copy = tmp_path / f"copy{kills}"
                    progress.append(go_on_elsewhere(case, folder, copy))
            else:
                came_through += 1
                assert_right(result[0], case)
                cases[case.hook] = replace(case, sae=case.sae + 1)
        for case in sorted(touched, key=str):
            go_on(case, folder, log)
            assert saved(case, folder).all()
    # Else the kills missed what they were to hit.
    assert came_through < KILLS
    assert sum(0 < windows < N for windows in progress) > len(progress) / 5


CLEAN, ROWS = (r"clean/blocks\.1\.", r"clean/head/"), (r"at/.*/rows/", r"runs/")
OF_A_RUN = [
    *(Stop(event, file) for file in (r"CACHEDIR\.TAG", r"entry\.json", *CLEAN) for event in EVENTS),
    *(Stop(event, file) for file in (r"at/[^/]+/shared\.", *ROWS) for event in EVENTS),
    *(Stop("os.rename", file, 1) for file in (*CLEAN, *ROWS)),
    *(Stop(event, file) for file in (r"at/.*/means/", r"at/[^/]+/sums\.") for event in EVENTS),
]
"""At every kind of file, in the order in which there is always one more to write."""


@pytest.mark.parametrize("hook", [RESIDUAL, pytest.param(MLP, marks=pytest.mark.slow)])
def test_measurement_killed_while_writing_any_kind_of_file_continues(
    hook: str, tmp_path: Path
) -> None:
    """One process after the other, each going on where the last one was killed."""
    folder, log = tmp_path / "cache", tmp_path / "log"
    for stop in OF_A_RUN:
        assert Child(Case(hook), folder, log, stop=stop).result() is None, stop
    assert go_on(Case(hook), folder, log) > 0
    # What does not depend on the SAE was not damaged, and is all there.
    go_on(Case(hook, sae=1), folder, log)
    assert not windows_run(log)["clean"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_that_measure_the_same_run_it_once(
    hook: str, processes: int, tmp_path: Path
) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    barrier = CONTEXT.Barrier(processes)
    children = [Child(Case(hook), folder, log, barrier=barrier) for _ in range(processes)]
    for child in children:
        assert_right(child.measurement(), Case(hook))
    ran = windows_run(log)
    assert ran["patched"] == ran["clean"] == ONCE
    assert ran["plain"] == {0: 1, 1: 1}  # the proof


@pytest.mark.slow
def test_processes_that_measure_different_saes_share_the_clean_run(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / "log"
    for corpus, hook in enumerate(HOOKS):
        cases = [Case(hook, sae, corpus) for sae in range(3)]
        barrier = CONTEXT.Barrier(len(cases))
        log.unlink(missing_ok=True)
        children = [Child(case, folder, log, barrier=barrier) for case in cases]
        for case, child in zip(cases, children, strict=True):
            assert_right(child.measurement(), case)
        ran = windows_run(log)
        assert ran["clean"] == ONCE
        assert ran["patched"] == Counter({row: len(cases) for row in range(N)})


@pytest.mark.parametrize(
    ("pause", "lock", "saved_before", "other"),
    [
        (Stop("os.rename", r"runs/", 3), "runs/", 3 * SHARD, Case(MLP)),
        (Stop("open", r"at/.*/means/", 2), "runs/", N, Case(MLP)),
        (Stop("os.rename", r"clean/head/", 3), "clean/000003", 3 * SHARD, Case(MLP, sae=1)),
        (Stop("open", r"at/.*/shared\."), "at/", 0, Case(MLP, sae=1)),
    ],
)
def test_killed_process_leaves_its_locks_and_work_to_another(
    pause: Stop, lock: str, saved_before: int, other: Case, tmp_path: Path
) -> None:
    case, folder, log = Case(MLP), tmp_path / "cache", tmp_path / "killed"
    first = Child(case, folder, log, pause=pause)
    first.expect("begins")
    first.expect("sweeps")
    first.expect("paused")
    assert lock_is_held(case, folder, lock)
    second = Child(other, folder, tmp_path / "other")
    second.expect("begins")
    second.expect("sweeps")
    assert second.silent(0.5)  # longer than a measurement takes
    assert saved(case, folder).sum() == saved_before
    first.kill()
    assert first.result() is None
    assert_right(second.measurement(), other)
    assert not lock_is_held(case, folder, lock)
    if other == case:
        expected = Counter(range(saved_before, N))
        assert windows_run(tmp_path / "other")["patched"] == expected
    assert go_on(case, folder, tmp_path / "last") == (N if other == case else saved_before)


@pytest.mark.slow
def test_either_of_two_processes_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    chance, kills = random.Random(1), 0
    for attempt in range(6):
        folder, log = tmp_path / str(attempt), tmp_path / "log"
        cases = [Case(chance.choice(HOOKS), 0), Case(chance.choice(HOOKS), chance.choice([0, 1]))]
        barrier = CONTEXT.Barrier(2)
        children = [Child(case, folder, log, barrier=barrier) for case in cases]
        for child in children:
            child.expect("begins")
            child.expect("sweeps")
        killed_one = chance.choice([0, 1])
        children[killed_one].kill(after=chance.uniform(0, 0.15))
        kills += children[killed_one].result() is None
        assert_right(children[1 - killed_one].measurement(), cases[1 - killed_one])
        go_on(cases[killed_one], folder, log)
    assert kills
