"""Which windows are run together, and numbers per window, remembered a shard at a time."""

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


def with_bar(steps: Sequence[Step], name: str, progress: TextIO | None) -> Iterator[Step]:
    """Yield the same, with a bar once they take longer than 2 s."""
    if progress is None:
        # Not even a bar that is off: its lock is shared with forked processes, and one of them that
        # is killed while it holds the lock would stop all others.
        yield from steps
        return
    bar: tqdm[NoReturn] = tqdm(
        total=len(steps), desc=name, unit="batch", delay=2, file=progress, leave=False
    )
    with bar:
        for step in steps:
            yield step
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


class Rows:
    """Columns with a row per window, of which some are known; whole shards are remembered."""

    def __init__(self, name: str, corpus: Corpus, memory: Memory) -> None:
        n, context = corpus.tokens.shape
        self._known = torch.zeros(n, dtype=torch.bool)
        self._columns: dict[str, Tensor] = {}
        self._name = name
        self._size = shard_size(context)
        self._memory = memory

    def __getitem__(self, name: str) -> Tensor:
        """A column; zero where it is not known."""
        return self._columns.get(name, torch.zeros(len(self._known), 1))

    def known(self, rows: slice) -> bool:
        """Whether these windows are known, from what is remembered, if need be."""
        for index in self._shards(rows):
            shard = self._shard(index)
            if not bool(self._known[shard].all()):
                kept = self._memory.read(self._file(index))
                if kept is not None:
                    self._set(shard, kept)
        return bool(self._known[rows].all())

    def set(self, rows: slice, values: Mapping[str, Tensor]) -> None:
        """Say the values of some windows; remember the shards that are whole by now."""
        self._set(rows, values)
        for index in self._shards(rows):
            shard = self._shard(index)
            if bool(self._known[shard].all()):
                whole = {name: column[shard] for name, column in self._columns.items()}
                self._memory.write(self._file(index), whole)

    def _set(self, rows: slice, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if name not in self._columns:
                self._columns[name] = value.new_zeros(len(self._known), *value.shape[1:])
            self._columns[name][rows] = value
        self._known[rows] = True

    def _shards(self, rows: slice) -> range:
        return range(rows.start // self._size, -(-rows.stop // self._size))

    def _shard(self, index: int) -> slice:
        return slice(index * self._size, min((index + 1) * self._size, len(self._known)))

    def _file(self, index: int) -> str:
        return f"{self._name}/{index:06}"


def per_row(
    values: Float[Tensor, " scored"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Float64 sums per sequence of the values of its scored tokens, on the CPU."""
    sums = torch.zeros(len(scored), dtype=torch.float64)
    return sums.index_add_(0, scored.nonzero()[:, 0], values.cpu().double())


def per_token(
    values: Float[Tensor, " scored"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """The values where they belong, in float32, on the CPU; 0 where nothing is scored."""
    table = torch.zeros(scored.shape)
    table[scored] = values.cpu().float()
    return table
