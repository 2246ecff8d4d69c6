"""The tokens and sequences of a measurement that the SAE changes most, by their KL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement import NO_TEXT, Measurement
from sae_guard.core.targets import Slice
from sae_guard.errors import UndefinedMetricError

ABOUT = ("kl", "ce_increase", "ce_patched", "reconstruction_score", "reconstruction_score[mean]")
"""Metrics whose failures the worst of it explain."""


@dataclass(frozen=True)
class WorstToken:
    """A prediction, in nats. Values may be NaN or infinite."""

    sequence: int
    """Index in the corpus."""
    position: int
    """Of the token at which the model predicts the next."""
    kl: float
    ce_clean: float
    ce_patched: float
    entropy: float
    """Of the clean prediction."""
    source: str = ""
    before: str = ""
    token: str = ""
    next: str = ""
    """Texts, where they were kept (`sae_guard.core.measurement.Around`)."""


@dataclass(frozen=True)
class WorstSequence:
    """Means over the scored tokens of a sequence, in nats. They may be NaN or infinite."""

    sequence: int
    """Index in the corpus."""
    n_tokens: int
    kl: float
    ce_clean: float
    ce_patched: float
    source: str = ""
    text: str = ""
    """How it begins, where that was kept."""


@dataclass(frozen=True)
class Worst:
    """The worst of each, the worst first."""

    tokens: tuple[WorstToken, ...]
    sequences: tuple[WorstSequence, ...]


def worst(
    measurement: Measurement,
    *,
    tokens: int = 10,
    sequences: int = 5,
    slice: Slice | None = None,
) -> Worst:
    """The tokens with the largest KL and the sequences with the largest mean KL.

    What is not finite is worse than any number. Of equals the first in the corpus comes first. A
    measurement of some rows has the worst of these; one without the values of single tokens, no
    tokens. A slice that nothing is in has none.

    Args:
        measurement: Whatever rows are there.
        tokens: How many, at most.
        sequences: How many, at most.
        slice: Which tokens are looked at; None for all that are scored.
    """
    try:
        mask = None if slice is None else slice.mask(measurement)
    except UndefinedMetricError:
        return Worst((), ())
    return Worst(
        tuple(_tokens(measurement, tokens, mask)), tuple(_sequences(measurement, sequences, mask))
    )


def _tokens(
    measurement: Measurement, most: int, mask: NDArray[np.bool_] | None
) -> Iterator[WorstToken]:
    table = measurement.tokens
    if table is None:
        return
    places = np.flatnonzero(table.scored if mask is None else table.scored & mask)
    columns = {name: column.ravel() for name, column in table.columns.items()}
    for index in largest(columns["kl"][places].astype(np.float64), most):
        place = int(places[index])
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
            source=_source(measurement, row),
            **around._asdict(),
        )


def _sequences(
    measurement: Measurement, most: int, mask: NDArray[np.bool_] | None
) -> Iterator[WorstSequence]:
    sums = measurement.sums
    if mask is not None:
        assert measurement.tokens is not None
        sums = measurement.tokens.sums(mask)
    some = np.flatnonzero(sums["n_tokens"] > 0)
    n = sums["n_tokens"][some]
    means = {name: sums[name][some] / n for name in ("kl", "ce_clean", "ce_patched")}
    for index in largest(means["kl"], most):
        row = int(some[index])
        sequence = int(measurement.sequences[row])
        yield WorstSequence(
            sequence,
            int(n[index]),
            kl=float(means["kl"][index]),
            ce_clean=float(means["ce_clean"][index]),
            ce_patched=float(means["ce_patched"][index]),
            source=_source(measurement, row),
            text=measurement.excerpts.sequences.get(sequence, ""),
        )


def largest(values: NDArray[np.float64], most: int) -> list[int]:
    """Indices of the largest, largest first, of equals the first; what is not finite is largest."""
    keys = np.where(np.isfinite(values), values, np.inf)
    most = min(most, len(keys))
    if most < 1:
        return []
    least = np.partition(keys, -most)[-most]
    above, equal = np.flatnonzero(keys > least), np.flatnonzero(keys == least)
    chosen = np.concatenate([above, equal[: most - len(above)]])
    ordered: list[int] = chosen[np.argsort(-keys[chosen], kind="stable")].tolist()
    return ordered


def _source(measurement: Measurement, row: int) -> str:
    return measurement.sources[row] if measurement.sources else ""
