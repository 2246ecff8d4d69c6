"""Measurements in processes of their own, for tests that kill them or let them race.

The server that forks them imports this module, and so torch, once. What it measures is tiny, and
remembered in many small shards, so that a process that is killed is killed between two of many
files.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sae_guard.cache import Cache
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import Corpus
from sae_guard.engine import batches, clean_run, fast_path, measure, plain, sae_run
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE
from sae_guard.sae.activations import JumpReLU
from tests.helpers.small_measurements import make_sae
from tests.helpers.tiny_models import VOCABULARY

MODEL = "SAE_GUARD_TEST_MODEL"
"""Names the folder of the model that all processes measure."""
RESIDUAL, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
"""One row serves most ablated sequences at the first; at the second each is run."""
N, CONTEXT, SHARD = 16, 16, 2
"""Windows, their tokens, and windows in a shard."""
WAITS = 100.0
"""Seconds after which another process is taken to hang."""
Patch = Callable[[Any, str, Any], None]
BOS, EXCLUDED, FIRST = 0, 7, 8


@dataclass(frozen=True)
class Case:
    """One measurement."""

    hook: str
    sae: int = 0
    corpus: int = 0
    batch_size: int = SHARD


@cache
def the_model() -> LanguageModel:
    """The model that all measure, on one thread."""
    torch.set_num_threads(1)
    return load_model(Path(os.environ[MODEL]))


def the_sae(seed: int) -> SAE:
    """SAEs that fire differently and reconstruct differently."""
    sae = make_sae()
    assert isinstance(sae.activation, JumpReLU)
    higher = JumpReLU(sae.activation.threshold * (1 + seed / 8))
    return replace(sae, activation=higher, scale_out=1 + seed / 8)


@cache
def the_corpus(seed: int) -> Corpus:
    """Windows of which one has no BOS, and one an excluded token inside."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST, VOCABULARY, (N, CONTEXT), generator=generator)
    tokens[:-1, 0] = BOS
    tokens[4, 9] = EXCLUDED
    return Corpus(tokens, frozenset({BOS, EXCLUDED}))


def in_small_shards(patch: Patch = setattr) -> None:
    """Remember a few windows at a time, and every step."""
    patch(batches, "_SHARD_TOKENS", SHARD * CONTEXT)
    patch(fast_path, "_SAVE_EVERY", 0)


def measured(case: Case, folder: Path | None) -> Measurement:
    """The measurement, with what the cache in the folder remembers."""
    return measure(
        the_model(), the_sae(case.sae), the_corpus(case.corpus), case.hook,
        batch_size=case.batch_size, cache=None if folder is None else Cache(folder),
    )  # fmt: skip


def log_windows(log: Path, patch: Patch = setattr) -> None:
    """Append a line to the log for each run of some windows: what is run, the first, the end."""

    def logging(what: str, method: Callable[..., Any], at: int) -> Callable[..., Any]:
        def logged(*arguments: Any, **more: Any) -> Any:
            rows = arguments[at]
            with log.open("a") as file:  # a line this short is appended whole
                file.write(f"{what} {rows.start} {rows.stop}\n")
            return method(*arguments, **more)

        return logged

    patch(sae_run.SaeRun, "finals", logging("patched", sae_run.SaeRun.finals, 1))
    patch(clean_run.CleanRuns, "_run", logging("clean", clean_run.CleanRuns._run, 1))
    patch(plain, "batch", logging("plain", plain.batch, 4))


def windows_run(log: Path) -> dict[str, Counter[int]]:
    """Count how often a log has each window, for each kind of run."""
    runs = {what: Counter[int]() for what in ("patched", "clean", "plain")}
    for line in log.read_text().splitlines() if log.is_file() else []:
        what, start, stop = line.split()
        runs[what].update(range(int(start), int(stop)))
    return runs


def once_it_sweeps(act: Callable[[], None], patch: Patch = setattr) -> None:
    """Act when what is remembered has been looked up, before any lock is taken."""
    right = fast_path.FastPath.__init__

    def sweeps(*arguments: Any, **options: Any) -> None:
        right(*arguments, **options)
        act()

    patch(fast_path.FastPath, "__init__", sweeps)


@dataclass(frozen=True)
class Stop:
    """A file operation; what is done at it is done in the middle of a write, or before a rename."""

    event: str
    """`open` of the file that is yet to be written in, or `os.rename` to its place."""
    file: str
    """Regular expression that the path matches from the entry's folder on."""
    n: int = 0
    """Number of such operations that come before it."""

    def install(self, act: Callable[[], object]) -> None:
        """Act at this operation; lasts as long as the process."""
        remaining = self.n

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal remaining
            if event != self.event:
                return
            path = str(arguments[event == "os.rename"])
            if event == "open" and "/partial/" not in path and "TAG." not in path:
                return
            if re.search(self.file, path.replace(",", "/")):
                remaining -= 1
                if remaining == -1:
                    act()

        sys.addaudithook(watch)


def child(
    case: Case,
    folder: Path,
    log: Path,
    connection: Connection,
    *,
    stop: Stop | None = None,
    pause: Stop | None = None,
    barrier: Barrier | None = None,
) -> None:
    """Measure; send "begins", "sweeps", and the measurement with the seconds of work it took.

    Args:
        case: What to measure.
        folder: Of the cache.
        log: As `log_windows` writes it.
        connection: Where to send.
        stop: Where to be killed.
        pause: Where to send "paused", and stay.
        barrier: Where those that sweep at the same time wait for each other.
    """
    in_small_shards()
    log_windows(log)
    if stop is not None:
        stop.install(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def stay() -> None:
        connection.send("paused")
        signal.pause()

    if pause is not None:
        pause.install(stay)

    def swept() -> None:
        if barrier is not None:
            barrier.wait(timeout=WAITS)
        connection.send("sweeps")

    once_it_sweeps(swept)
    connection.send("begins")
    start = time.process_time()
    runs = measured(case, folder)
    connection.send((runs, time.process_time() - start))


if MODEL in os.environ:
    the_model()
    # A child that is killed would leave behind the semaphore that it makes for its progress bar.
    tqdm.get_lock()  # type: ignore[no-untyped-call]
