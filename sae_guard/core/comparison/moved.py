"""The sequences and tokens whose KL moved most between two versions."""

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
    """The mean KL over the scored tokens of a sequence, in nats."""

    sequence: int
    """Index in the corpus."""
    n_tokens: int
    before: float
    after: float
    source: str = ""
    text: str = ""
    """How it begins, where one of the two kept that."""


@dataclass(frozen=True)
class MovedToken:
    """The KL of a prediction, in nats."""

    sequence: int
    """Index in the corpus."""
    position: int
    """Of the token at which the model predicts the next."""
    before: float
    after: float
    source: str = ""
    around: Around = NO_TEXT
    """Its text, where one of the two kept that."""


Item = TypeVar("Item", MovedSequence, MovedToken)


@dataclass(frozen=True)
class Moved(Generic[Item]):
    """What moved most, the largest move first."""

    worse: tuple[Item, ...] = ()
    better: tuple[Item, ...] = ()


def moved_sequences(before: Measurement, after: Measurement, most: int) -> Moved[MovedSequence]:
    """The sequences whose mean KL rose most, and fell most.

    Args:
        before: Of the same sequences as ``after``.
        after: What they moved to.
        most: How many each way.
    """
    some = np.flatnonzero(after.sums["n_tokens"] > 0)
    n = after.sums["n_tokens"][some]
    old, new = (each.sums["kl"][some] / n for each in (before, after))
    with np.errstate(invalid="ignore"):  # ∞ − ∞, which moved nowhere
        move = new - old
    texts = {**before.excerpts.sequences, **after.excerpts.sequences}

    def item(at: int) -> MovedSequence:
        row = int(some[at])
        index = int(after.sequences[row])
        return MovedSequence(
            index,
            int(n[at]),
            float(old[at]),
            float(new[at]),
            _source(before, after, row),
            texts.get(index, ""),
        )

    worse, better = _both_ways(move, most)
    return Moved(tuple(map(item, worse)), tuple(map(item, better)))


def moved_tokens(
    before: tuple[Measurement, TokenKL], after: tuple[Measurement, TokenKL], most: int
) -> Moved[MovedToken]:
    """The tokens whose KL rose most, and fell most; args as `moved_sequences`.

    Raises:
        UndefinedMetricError: Other tokens are scored, or a value is not finite.
    """
    (earlier, old), (later, new) = before, after
    for a, b in ((old.sequences, new.sequences), (old.positions, new.positions)):
        if not np.array_equal(a, b):
            raise UndefinedMetricError("the values of single tokens are of other tokens")
    if not (np.isfinite(old.kl).all() and np.isfinite(new.kl).all()):
        raise UndefinedMetricError("the KL of a token is not finite")
    move = new.kl.astype(np.float64) - old.kl
    texts = {**earlier.excerpts.tokens, **later.excerpts.tokens}

    def item(at: int) -> MovedToken:
        place = int(new.sequences[at]), int(new.positions[at])
        row = int(np.searchsorted(later.sequences, place[0]))
        return MovedToken(
            *place,
            float(old.kl[at]),
            float(new.kl[at]),
            _source(earlier, later, row),
            texts.get(place, NO_TEXT),
        )

    worse, better = _both_ways(move, most)
    return Moved(tuple(map(item, worse)), tuple(map(item, better)))


def _both_ways(move: NDArray[np.float64], most: int) -> tuple[list[int], list[int]]:
    """Indices of what rose most and of what fell most; what did not move is in neither."""
    return (
        [at for at in largest(move, most) if move[at] > 0],
        [at for at in largest(-move, most) if move[at] < 0],
    )


def _source(before: Measurement, after: Measurement, row: int) -> str:
    sources = after.sources or before.sources
    return sources[row] if sources else ""
