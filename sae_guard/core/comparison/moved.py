"""Find the sequences and tokens whose KL changed most between two versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import NO_TEXT, Around, Measurement, TokenKL
from sae_guard.core.worst_tokens import largest
from sae_guard.errors import UndefinedMetricError


@dataclass(frozen=True)
class MovedSequence:
    """A sequence with its mean KL over the scored tokens in two versions, in nats."""

    sequence: int
    """Index in the corpus."""
    n_tokens: int
    """Number of scored tokens."""
    before: float
    after: float
    source: str = ""
    text: str = ""
    """Beginning of the text; empty where neither measurement has it."""


@dataclass(frozen=True)
class MovedToken:
    """A token, and the KL of the model's prediction after it in two versions, in nats."""

    sequence: int
    """Index in the corpus."""
    position: int
    """Position of the token at which the model predicts the next."""
    before: float
    after: float
    source: str = ""
    around: Around = NO_TEXT
    """Text around the token; empty where neither measurement has it."""


Item = TypeVar("Item", MovedSequence, MovedToken)


@dataclass(frozen=True)
class Moved(Generic[Item]):
    """Sequences or tokens whose KL changed most, the largest change first."""

    worse: tuple[Item, ...] = ()
    better: tuple[Item, ...] = ()


def moved_sequences(before: Measurement, after: Measurement, limit: int) -> Moved[MovedSequence]:
    """Return the sequences whose mean KL rose most and those whose mean KL fell most.

    Args:
        before: The earlier measurement.
        after: The later measurement, of the same sequences.
        limit: Largest number of sequences in each direction.
    """
    rows = np.flatnonzero(after.sums["n_tokens"] > 0)
    n = after.sums["n_tokens"][rows]
    old, new = (measurement.sums["kl"][rows] / n for measurement in (before, after))
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN and counts as no change
        difference = new - old
    texts = {**before.excerpts.sequences, **after.excerpts.sequences}

    def item(index: int) -> MovedSequence:
        row = int(rows[index])
        sequence = int(after.sequences[row])
        return MovedSequence(
            sequence,
            int(n[index]),
            float(old[index]),
            float(new[index]),
            after.source(row) or before.source(row),
            texts.get(sequence, ""),
        )

    worse, better = _both_ways(difference, limit)
    return Moved(tuple(map(item, worse)), tuple(map(item, better)))


def moved_tokens(
    before: tuple[Measurement, TokenKL], after: tuple[Measurement, TokenKL], limit: int
) -> Moved[MovedToken]:
    """Return the tokens whose KL rose most and those whose KL fell most.

    Args:
        before: The earlier measurement and its KL of single tokens.
        after: The later measurement and its KL of the same tokens.
        limit: Largest number of tokens in each direction.

    Raises:
        UndefinedMetricError: The scored tokens differ, or a KL is not finite.
    """
    (earlier, old), (later, new) = before, after
    for a, b in ((old.sequences, new.sequences), (old.positions, new.positions)):
        if not np.array_equal(a, b):
            raise UndefinedMetricError(
                "single tokens and sequences are not compared: the scored tokens differ"
            )
    if not (np.isfinite(old.kl).all() and np.isfinite(new.kl).all()):
        raise UndefinedMetricError("the KL of a token is not finite")
    difference = new.kl.astype(np.float64) - old.kl
    texts = {**earlier.excerpts.tokens, **later.excerpts.tokens}

    def item(index: int) -> MovedToken:
        place = int(new.sequences[index]), int(new.positions[index])
        # Sequence indices are ascending (`Measurement` checks it).
        row = int(np.searchsorted(later.sequences, place[0]))
        return MovedToken(
            *place,
            float(old.kl[index]),
            float(new.kl[index]),
            later.source(row) or earlier.source(row),
            texts.get(place, NO_TEXT),
        )

    worse, better = _both_ways(difference, limit)
    return Moved(tuple(map(item, worse)), tuple(map(item, better)))


def _both_ways(difference: NDArray[np.float64], limit: int) -> tuple[list[int], list[int]]:
    """Return the indices of the largest rises and of the largest falls; 0 and NaN are neither."""
    return (
        [index for index in largest(difference, limit) if difference[index] > 0],
        [index for index in largest(-difference, limit) if difference[index] < 0],
    )
