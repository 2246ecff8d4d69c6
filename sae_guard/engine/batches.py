"""Split a corpus into batches, and hold numbers per window, which are stored shard by shard.

A *shard* is a fixed group of consecutive windows: the unit in which the cache stores numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NoReturn, TextIO, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from sae_guard.corpus import Corpus
from sae_guard.engine.memory import Memory
from sae_guard.errors import InfrastructureError

_SHARD_TOKENS = 2**12
Step = TypeVar("Step")


def shard_size(context: int) -> int:
    """Return the number of windows in a shard; it depends on their length in tokens only.

    It does not depend on the machine, so that every machine reads the shards of another.
    """
    return max(1, _SHARD_TOKENS // context)


def batches(start: int, stop: int, size: int, shard: int) -> list[slice]:
    """Split windows into batches, each within one shard or of complete shards.

    Args:
        start: First window. Where ``size`` is at least ``shard``, it must be the start of a shard.
        stop: End of the windows. It may lie inside a shard; the last batch then ends there.
        size: Largest number of windows in a batch.
        shard: Number of windows in a shard.
    """
    if size < shard:
        borders = [*range(start - start % shard, stop, shard), stop]
        return [
            slice(first, min(first + size, end))
            for begin, end in pairwise(borders)
            for first in range(max(begin, start), end, size)
        ]
    step = size // shard * shard
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def with_progress_bar(steps: Sequence[Step], name: str, progress: TextIO | None) -> Iterator[Step]:
    """Yield the steps, and draw a progress bar once they take longer than 2 s.

    Args:
        steps: Items of the loop.
        name: Title of the bar.
        progress: Stream to draw on; None draws nothing.
    """
    if progress is None:
        # A disabled tqdm still creates a lock that forked processes share: if one of them is killed
        # while it holds the lock, all others wait forever.
        yield from steps
        return
    bar: tqdm[NoReturn] = tqdm(
        total=len(steps), desc=name, unit="batch", delay=2, file=progress, leave=False
    )
    with bar:
        for step in steps:
            yield step
            bar.update()


def halve_on_oom(run: Callable[[slice], None], rows: slice) -> None:
    """Run the windows; while they do not fit into GPU memory, run each half by itself.

    Args:
        run: Runs a batch. Windows of a batch that failed are run again and must not count twice.
        rows: Windows to run.

    Raises:
        InfrastructureError: A single window does not fit.
    """
    try:
        run(rows)
        return
    except torch.OutOfMemoryError as error:
        if rows.stop - rows.start < 2:
            raise InfrastructureError(f"out of memory with a single window: {error}") from error
    # After the `except` block: within it the traceback keeps the tensors of the failed run alive.
    torch.cuda.empty_cache()
    middle = (rows.start + rows.stop) // 2
    for half in (slice(rows.start, middle), slice(middle, rows.stop)):
        halve_on_oom(run, half)


class ShardedColumns:
    """Columns with one row per window, filled in batch by batch; complete shards are cached."""

    def __init__(self, name: str, corpus: Corpus, memory: Memory) -> None:
        """Start without any row.

        Args:
            name: Folder of the shards in the cache entry.
            corpus: Windows that the rows are of.
            memory: Cache entry of the model and corpus.
        """
        n, context = corpus.tokens.shape
        self._is_filled = torch.zeros(n, dtype=torch.bool)
        self._columns: dict[str, Tensor] = {}
        self._name = name
        self._size = shard_size(context)
        self._memory = memory

    def __getitem__(self, name: str) -> Tensor:
        """Return a column; zero in rows that are not filled in."""
        # [n, 1] broadcasts. `ce_mean` is missing where no window needed a run of its own.
        return self._columns.get(name, torch.zeros(len(self._is_filled), 1))

    def has(self, rows: slice) -> bool:
        """Return True if these rows are filled in, after reading their shards from the cache."""
        for index in self._shards(rows):
            shard = self._shard(index)
            if not bool(self._is_filled[shard].all()):
                stored = self._memory.read(self._file(index))
                if stored is not None:
                    self._set(shard, stored)
        return bool(self._is_filled[rows].all())

    def set(self, rows: slice, values: Mapping[str, Tensor]) -> None:
        """Fill in rows, and store the shards that are complete now.

        Args:
            rows: Windows.
            values: Column → one entry per window, along the first dimension.
        """
        self._set(rows, values)
        for index in self._shards(rows):
            shard = self._shard(index)
            if bool(self._is_filled[shard].all()):
                columns = {name: column[shard] for name, column in self._columns.items()}
                self._memory.write(self._file(index), columns)

    def _set(self, rows: slice, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if name not in self._columns:
                self._columns[name] = value.new_zeros(len(self._is_filled), *value.shape[1:])
            self._columns[name][rows] = value
        self._is_filled[rows] = True

    def _shards(self, rows: slice) -> range:
        return range(rows.start // self._size, -(-rows.stop // self._size))  # the end is rounded up

    def _shard(self, index: int) -> slice:
        return slice(index * self._size, min((index + 1) * self._size, len(self._is_filled)))

    def _file(self, index: int) -> str:
        return f"{self._name}/{index:06}"


def sequence_sums(
    values: Float[Tensor, " scored"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Sum the values of the scored tokens of each sequence, in float64 on the CPU."""
    sums = torch.zeros(len(scored), dtype=torch.float64)
    return sums.index_add_(0, scored.nonzero()[:, 0], values.cpu().double())


def token_table(
    values: Float[Tensor, " scored"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Put the values at the positions of the scored tokens, in float32 on the CPU; 0 elsewhere."""
    table = torch.zeros(scored.shape)
    table[scored] = values.cpu().float()
    return table
