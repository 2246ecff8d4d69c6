"""Find the tokens and sequences with the largest KL: those that the SAE changes most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import NO_TEXT, Measurement
from sae_guard.core.targets import Slice
from sae_guard.errors import UndefinedMetricError

EXPLAINED_METRICS = (
    "kl", "ce_increase", "ce_patched", "reconstruction_score", "reconstruction_score[mean]",
)  # fmt: skip
"""Metrics whose failures the worst tokens help to explain."""


@dataclass(frozen=True)
class WorstToken:
    """A token and its prediction, in nats. Values may be NaN or infinite."""

    sequence: int
    """Index in the corpus."""
    position: int
    """Position of the token at which the model predicts the next."""
    kl: float
    ce_clean: float
    ce_patched: float
    entropy: float
    """Entropy of the clean prediction."""
    source: str = ""
    before: str = ""
    token: str = ""
    next: str = ""
    """Text of the next token; the texts are empty where unknown (`core.measurement.Around`)."""


@dataclass(frozen=True)
class WorstSequence:
    """A sequence and its means over scored tokens, in nats. They may be NaN or infinite."""

    sequence: int
    """Index in the corpus."""
    n_tokens: int
    """Number of scored tokens."""
    kl: float
    ce_clean: float
    ce_patched: float
    source: str = ""
    text: str = ""
    """Beginning of the text; empty where unknown."""


@dataclass(frozen=True)
class Worst:
    """The worst tokens and the worst sequences, each list sorted with the worst first."""

    tokens: tuple[WorstToken, ...]
    sequences: tuple[WorstSequence, ...]


def worst(
    measurement: Measurement, *, tokens: int = 10, sequences: int = 5, slice: Slice | None = None
) -> Worst:
    """Return the tokens with the largest KL and the sequences with the largest mean KL.

    A value that is not finite is worse than any number; ties are in corpus order.

    Args:
        measurement: Measurement of all or some of the sequences.
        tokens: Largest number of tokens to return.
        sequences: Largest number of sequences to return.
        slice: Slice of the scored tokens; None for all of them.

    Returns:
        The worst tokens, none without a token table, and the worst sequences. Both are empty for an
        empty slice.
    """
    try:
        mask = None if slice is None else slice.mask(measurement)
    except UndefinedMetricError:
        return Worst((), ())
    return Worst(
        tuple(_tokens(measurement, tokens, mask)), tuple(_sequences(measurement, sequences, mask))
    )


def _tokens(
    measurement: Measurement, limit: int, mask: NDArray[np.bool_] | None
) -> Iterator[WorstToken]:
    table = measurement.tokens
    if table is None:
        return
    places = np.flatnonzero(table.scored if mask is None else table.scored & mask)
    columns = {name: column.ravel() for name, column in table.columns.items()}
    for index in largest(columns["kl"][places].astype(np.float64), limit):
        place = int(places[index])
        # Row of the table, not yet of the corpus.
        row, position = divmod(place, table.scored.shape[1])
        sequence = int(measurement.sequences[row])
        around = measurement.excerpts.tokens.get((sequence, position), NO_TEXT)
        yield WorstToken(
            sequence,
            position,
            kl=float(columns["kl"][place]),
            ce_clean=float(columns["ce_clean"][place]),
            ce_patched=float(columns["ce_patched"][place]),
            entropy=float(columns["entropy"][place]),
            source=measurement.source(row),
            **around._asdict(),
        )


def _sequences(
    measurement: Measurement, limit: int, mask: NDArray[np.bool_] | None
) -> Iterator[WorstSequence]:
    sums = measurement.sums
    if mask is not None:
        assert measurement.tokens is not None
        sums = measurement.tokens.sums(mask)
    rows = np.flatnonzero(sums["n_tokens"] > 0)
    n = sums["n_tokens"][rows]
    means = {name: sums[name][rows] / n for name in ("kl", "ce_clean", "ce_patched")}
    for index in largest(means["kl"], limit):
        row = int(rows[index])
        sequence = int(measurement.sequences[row])
        yield WorstSequence(
            sequence,
            int(n[index]),
            kl=float(means["kl"][index]),
            ce_clean=float(means["ce_clean"][index]),
            ce_patched=float(means["ce_patched"][index]),
            source=measurement.source(row),
            text=measurement.excerpts.sequences.get(sequence, ""),
        )


def largest(values: NDArray[np.float64], limit: int) -> list[int]:
    """Return the indices of the largest values, the largest first.

    A value that is not finite counts as larger than any number; among equals the first comes first.

    Args:
        values: Values to rank, shape [n].
        limit: Largest number of indices to return.
    """
    keys = np.where(np.isfinite(values), values, np.inf)
    limit = min(limit, len(keys))
    if limit < 1:
        return []
    # A partition is linear in n; only the selected values are sorted.
    cutoff = np.partition(keys, -limit)[-limit]
    greater, equal = np.flatnonzero(keys > cutoff), np.flatnonzero(keys == cutoff)
    selected = np.concatenate([greater, equal[: limit - len(greater)]])
    ordered: list[int] = selected[np.argsort(-keys[selected], kind="stable")].tolist()
    return ordered
