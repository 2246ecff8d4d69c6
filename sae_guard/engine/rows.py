"""Numbers per window, remembered a shard at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine.batches import shard_size
from sae_guard.engine.memory import Memory


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
