"""The measured values of single tokens: below the table of sums, for quantiles and slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.metrics.table import ON_REQUEST

TOKEN_COLUMNS = (
    "kl", "ce_clean", "ce_patched", "ce_zero", "ce_mean", "entropy",
    "l0", "l1", "sq_error", "cosine", "l2_ratio",
)  # fmt: skip
"""Columns that single tokens have. ``entropy`` is that of the clean prediction, in nats. Without
``sq_deviation``: the mean it is taken about is known when all tokens have gone by."""


@dataclass(frozen=True, eq=False)
class TokenKL:
    """KL of every scored token in the order of the corpus: what records keep of a `TokenTable`."""

    sequences: NDArray[np.int64]
    """Index of each token's sequence in the corpus, shape [n_tokens]."""
    positions: NDArray[np.int32]
    """Position p is that which predicts token p + 1, shape [n_tokens]."""
    kl: NDArray[np.float32]
    """In nats, shape [n_tokens]."""

    def __post_init__(self) -> None:
        for name, dtype in (("sequences", np.int64), ("positions", np.int32), ("kl", np.float32)):
            column = getattr(self, name)
            if column.shape != self.kl.shape or column.ndim != 1 or column.dtype != dtype:
                raise ValueError(f"{name} of tokens is {column.dtype}{list(column.shape)}")


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Values of every scored token; position p is that which predicts token p + 1."""

    scored: NDArray[np.bool_]
    """Shape [n_sequences, pos]."""
    columns: Mapping[str, NDArray[np.float32]]
    """Of this shape; 0 where nothing is scored. Those of `ON_REQUEST` may be absent."""

    def __post_init__(self) -> None:
        if set(self.columns) - ON_REQUEST.keys() != set(TOKEN_COLUMNS):
            raise ValueError(f"columns are {sorted(self.columns)}, expected those of tokens")
        for name, column in self.columns.items():
            if column.shape != self.scored.shape or column.dtype != np.float32:
                raise ValueError(f"token column {name!r} is {column.dtype}{list(column.shape)}")

    def combined(self, coefficients: Mapping[str, float]) -> NDArray[np.float64]:
        """A sum of columns per token, in float64, shape [n_sequences, pos]."""
        total = np.zeros(self.scored.shape)
        for name, factor in coefficients.items():
            total += factor * self.columns[name].astype(np.float64)
        return total

    def sums(self, mask: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Columns summed over the scored tokens of a mask, per sequence, and ``n_tokens``."""
        chosen = self.scored & mask
        sums = {
            name: np.where(chosen, column, 0).sum(axis=1, dtype=np.float64)
            for name, column in self.columns.items()
            if name != "entropy"
        }
        return {**sums, "n_tokens": chosen.sum(axis=1, dtype=np.float64)}
