"""Which windows are run together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NoReturn, TextIO

import torch
from tqdm import tqdm

from sae_guard.errors import InfrastructureError

_SHARD_TOKENS = 2**12


def shard_size(context: int) -> int:
    """Windows that are remembered together: by their length alone, whatever fits the memory."""
    return max(1, _SHARD_TOKENS // context)


def batches(start: int, stop: int, size: int, shard: int) -> list[slice]:
    """Slices of at most ``size`` windows; each is in one shard, or some whole ones and the last."""
    if size < shard:
        borders = [*range(start - start % shard, stop, shard), stop]
        return [
            slice(at, min(at + size, end))
            for begin, end in pairwise(borders)
            for at in range(max(begin, start), end, size)
        ]
    step = size // shard * shard
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def with_bar(rows: list[slice], name: str, progress: TextIO | None) -> Iterator[slice]:
    """The same, with a bar once they take longer than 2 s."""
    if progress is None:
        # Not even a bar that is off: its lock is shared with forked processes, and one of them that
        # is killed while it holds the lock would stop all others.
        yield from rows
        return
    bar: tqdm[NoReturn] = tqdm(
        total=len(rows), desc=name, unit="batch", delay=2, file=progress, leave=False
    )
    with bar:
        for batch in rows:
            yield batch
            bar.update()


def in_halves(run: Callable[[slice], None], rows: slice) -> None:
    """Run the windows, in as many parts as fit the memory.

    Raises:
        InfrastructureError: Not even a single one fits.
    """
    try:
        run(rows)
        return
    except torch.OutOfMemoryError as error:
        if rows.stop - rows.start < 2:
            raise InfrastructureError(f"out of memory with a single window: {error}") from error
    torch.cuda.empty_cache()
    middle = (rows.start + rows.stop) // 2
    for half in (slice(rows.start, middle), slice(middle, rows.stop)):
        in_halves(run, half)
