"""A cache that several processes share stays right if they are killed at any moment."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from sae_guard.cache import Cache, CacheError, Entry

KEY, OTHER = "0" * 16, "1" * 16
CRASHED = 9
# Created before any fork, since torch's threads do not exist in a child. Large enough that writing
# takes most of the time, so that most kills interrupt it.
VERSIONS = [torch.full((400_000,), n, dtype=torch.int64) for n in range(3)]


def version(n: int) -> dict[str, Tensor]:
    """Return the tensors of version ``n`` of a file."""
    return {"x": VERSIONS[n], "y": VERSIONS[n][:7].bool()}


def check_version(entry: Entry, name: str) -> int | None:
    """Read a file, assert that it is complete and return its version; None if there is none."""
    contents = entry.read(name)
    if contents is None:
        return None
    n = int(contents.metadata["version"])
    assert set(contents.tensors) == {"x", "y"}
    assert torch.equal(contents["x"], VERSIONS[n])
    assert torch.equal(contents["y"], VERSIONS[n][:7].bool())
    return n


def fork(work: Callable[[], object]) -> int:
    """Start a child that does the work and exits with 0, or with 1 if it raises; return its id."""
    with warnings.catch_warnings():
        # Python 3.12 warns about forking with threads; the child uses none of torch's.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a child and return its exit code; a negative one is the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forever(work: Callable[[int], object]) -> Callable[[], None]:
    """Return a function that does the work with 0, 1, … until it is killed."""

    def repeat() -> None:
        for n in count():
            work(n)

    return repeat


def kill_while(work: Callable[[int], object], seconds: float) -> None:
    """Do the work with 0, 1, … in a child, and kill it some seconds after it has begun."""
    reader, writer = os.pipe()

    def repeat() -> None:
        os.write(writer, b"begun")
        forever(work)()

    child = fork(repeat)
    os.read(reader, 5)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    os.close(reader)
    os.close(writer)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def orphans(cache: Cache) -> list[Path]:
    """List the files that killed processes have left behind."""
    paths = cache.root.rglob("*")
    return [path for path in paths if path.name.startswith(".") or path.parent.name == "partial"]


@pytest.mark.slow
def test_a_writer_killed_at_random_leaves_a_complete_version_or_none(cache: Cache) -> None:
    entry = cache.entry(KEY, {})
    chance = random.Random(0)
    versions = set()

    def write(n: int) -> None:
        with entry.lock("a"):
            entry.write("a", version(n % 3), {"version": str(n % 3)})

    interrupted = 0
    for _ in range(60):
        kill_while(write, chance.uniform(0.001, 0.02))
        interrupted += bool(orphans(cache))
        versions.add(check_version(entry, "a"))
        write(chance.randrange(3))  # the lock is free, and orphans do not disturb
        assert check_version(entry, "a") is not None
        assert orphans(cache) == []
        if chance.random() < 0.5:
            entry.remove("a")
    assert interrupted > 0  # otherwise no kill came while a file was being written
    assert {0, 1, 2} <= versions


def crash_at(step: int) -> None:
    """Make this process exit just before its file operation number ``step``, counted from now."""
    remaining = step
    file_operations = {
        "open",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.utime",
        "os.scandir",
    }

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal remaining
        if event in file_operations:
            remaining -= 1
            if remaining < 0:
                os._exit(CRASHED)

    sys.addaudithook(watch)  # cannot be removed, but ends with the child


def crashes(work: Callable[[], object]) -> Iterator[int]:
    """Do the work in children that crash at file operation 0, 1, …, until one does not crash.

    Yields:
        The number of the operation, after each child has ended.
    """

    def crashing(step: int) -> Callable[[], None]:
        def run() -> None:
            crash_at(step)
            work()

        return run

    for step in range(1000):
        code = exit_code(fork(crashing(step)))
        assert code in (0, CRASHED)
        yield step
        if code == 0:
            return


def test_a_first_writer_that_crashes_at_any_step_leaves_a_usable_cache(
    tmp_path: Path,
) -> None:
    root = tmp_path / "0"

    def write() -> None:
        Cache(root).entry(KEY, {"model": {}}).write("a", version(1), {"version": "1"})

    for step in crashes(write):
        assert all(stored.key == KEY for stored in Cache(root).entries())
        write()
        assert check_version(Cache(root).entry(KEY, {}), "a") == 1
        Cache(root).clear()
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["CACHEDIR.TAG"]
        root = tmp_path / str(step + 1)
    assert step > 8


def test_a_crash_while_rewriting_leaves_the_old_or_the_new_version(cache: Cache) -> None:
    entry = cache.entry(KEY, {})
    entry.write("a", version(0), {"version": "0"})
    versions = []
    for _ in crashes(lambda: entry.write("a", version(1), {"version": "1"})):
        versions.append(check_version(entry, "a"))
        entry.write("a", version(0), {"version": "0"})
        assert orphans(cache) == []
    assert set(versions) == {0, 1}
    assert versions == sorted(versions, key=str)


@pytest.mark.parametrize("method", [pytest.param("clear", marks=pytest.mark.slow), "reserve"])
def test_a_crash_while_evicting_leaves_all_of_an_entry_or_none(cache: Cache, method: str) -> None:
    entry, other = cache.entry(KEY, {}), cache.entry(OTHER, {})

    def fill() -> None:
        for name in ("a", "b"):
            entry.write(name, version(0), {"version": "0"})

    def evict() -> None:
        if method == "clear":
            cache.clear()
        else:
            assert Entry(Cache(cache.root, 7_000_000), OTHER, {}).reserve(7_000_000 - 1000)

    fill()
    outcomes = set()
    for _ in crashes(evict):
        versions = {check_version(entry, name) for name in ("a", "b")}
        assert len(versions) == 1
        is_listed = any(stored.key == KEY for stored in cache.entries())
        assert is_listed == (versions == {0})
        outcomes |= versions
        fill()
        other.use()
    assert outcomes == {0, None}
    cache.clear()
    assert orphans(cache) == []


def test_a_lock_excludes_other_processes(cache: Cache, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def increment() -> None:
        entry = cache.entry(KEY, {})
        for _ in range(5):
            with entry.lock("runs/3fa9"):
                n = int(counter.read_text())
                time.sleep(0.005)
                counter.write_text(str(n + 1))

    children = [fork(increment) for _ in range(3)]
    assert [exit_code(child) for child in children] == [0, 0, 0]
    assert counter.read_text() == "15"


def test_a_lock_covers_one_name_and_is_freed_if_its_holder_is_killed(
    cache: Cache,
) -> None:
    entry = cache.entry(KEY, {})
    reader, writer = os.pipe()

    def hold() -> None:
        with entry.lock("a"):
            os.write(writer, b"lock")
            signal.pause()

    child = fork(hold)
    try:
        assert os.read(reader, 4) == b"lock"
        with entry.lock("b"):
            entry.write("a", version(1), {"version": "1"})
    finally:
        os.kill(child, signal.SIGKILL)
        exit_code(child)
    with entry.lock("a"):
        assert check_version(entry, "a") == 1
    os.close(reader)
    os.close(writer)


def test_readers_and_writers_work_while_others_evict_and_clear(cache: Cache) -> None:
    def use(seed: int) -> Callable[[], None]:
        def work() -> None:
            chance = random.Random(seed)
            for _ in range(250):
                entry = cache.entry(KEY, {"model": {"name": "gpt2"}})
                name, n = chance.choice("ab"), chance.randrange(3)
                if chance.random() < 0.3:
                    with entry.lock(name):
                        entry.write(name, version(n), {"version": str(n)})
                elif chance.random() < 0.5:
                    entry.write(name, version(n), {"version": str(n)})
                entry.reserve(chance.randrange(10_000))
                entry.has(name)
                n_read = check_version(entry, name)
                os.write(writer, b"." if n_read is None else b"%d" % n_read)
                if chance.random() < 0.1:
                    entry.remove(name)

        return work

    reader, writer = os.pipe()

    def evict(_: int) -> None:
        small = Entry(Cache(cache.root, 1_000_000), OTHER, {})
        assert small.reserve(999_000)
        time.sleep(0.003)
        assert {stored.key for stored in cache.entries()} <= {KEY, OTHER}
        cache.clear()
        time.sleep(0.003)

    users = [fork(use(seed)) for seed in range(2)]
    evictor = fork(forever(evict))
    exit_codes = [exit_code(child) for child in users]
    os.kill(evictor, signal.SIGKILL)  # before an assertion can fail, since it runs forever
    assert [*exit_codes, exit_code(evictor)] == [0, 0, -signal.SIGKILL]
    os.close(writer)
    with os.fdopen(reader, "rb") as outcomes:
        assert set(outcomes.read()) == set(b".012")  # both hits and misses occurred
    cache.clear()
    assert cache.entries() == []
    assert orphans(cache) == []


def test_processes_that_create_the_cache_at_the_same_time_succeed(tmp_path: Path) -> None:
    for attempt in range(10):
        start = time.monotonic() + 0.02
        root = tmp_path / str(attempt)

        def work(root: Path = root, start: float = start) -> None:
            while time.monotonic() < start:
                pass
            entry = Cache(root).entry(KEY, {})
            entry.write(str(os.getpid()), {}, {})
            assert entry.has(str(os.getpid()))

        children = [fork(work) for _ in range(4)]
        assert [exit_code(child) for child in children] == [0] * 4


def test_a_full_disk_is_a_cache_error_and_leaves_the_old_file(cache: Cache) -> None:
    entry = cache.entry(KEY, {})
    entry.write("a", version(0), {"version": "0"})

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(CacheError, match=r"cannot use .*/a\.safetensors: File too large"):
            entry.write("a", version(1), {"version": "1"})
        assert orphans(cache) == []

    assert exit_code(fork(write)) == 0
    assert check_version(entry, "a") == 0


def test_a_read_only_folder_is_a_cache_error_but_can_be_read() -> None:
    with TemporaryDirectory() as parent:  # tmp_path is closed to other users
        Path(parent).chmod(0o755)
        cache = Cache(Path(parent) / "cache")
        entry = cache.entry(KEY, {})
        entry.write("a", version(0), {"version": "0"})
        folders = [cache.root, *(path for path in cache.root.rglob("*") if path.is_dir())]
        uses: list[Callable[[], object]] = [
            lambda: entry.write("a", version(1), {"version": "1"}),
            lambda: entry.remove("a"),
            lambda: entry.lock("new").__enter__(),
            lambda: cache.entry(OTHER, {}),
            cache.clear,
        ]

        def use() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)  # no folder is read-only for root
            assert check_version(entry, "a") == 0
            for use in uses:
                with pytest.raises(CacheError, match="Permission denied"):
                    use()

        for folder in folders:
            folder.chmod(0o555)
        try:
            assert exit_code(fork(use)) == 0
        finally:
            for folder in folders:
                folder.chmod(0o755)
        assert check_version(entry, "a") == 0
