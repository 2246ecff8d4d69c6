"""`Measurement`: one row per token sequence, one column per sum. Everything meets at this table.

Below it stand the values of single tokens, for quantiles and slices, and the text around some of
them, so that the worst ones can be read anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.metrics import ALL_COLUMNS, COLUMNS, ON_REQUEST, Metric, metric
from sae_guard.core.statistics import Estimate, ratio, ratio_interval
from sae_guard.errors import Option, UndefinedMetricError

TOKEN_COLUMNS = tuple(
    name for name, column in ALL_COLUMNS.items() if column.of_tokens and not column.on_request
)
"""Columns that every table of single tokens has."""


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
            if ALL_COLUMNS[name].summed
        }
        return {**sums, "n_tokens": chosen.sum(axis=1, dtype=np.float64)}


class Around(NamedTuple):
    """The text around a prediction."""

    before: str
    """Of the tokens before."""
    token: str
    """The one at whose position the model predicts."""
    next: str
    """The one that follows it in the text, which the losses are about."""


NO_TEXT = Around("", "", "")


@dataclass(frozen=True)
class Excerpts:
    """Texts by their place: sequences by their index in the corpus."""

    tokens: Mapping[tuple[int, int], Around] = field(default_factory=dict)
    """By sequence and position."""
    sequences: Mapping[int, str] = field(default_factory=dict)
    """How sequences begin."""

    @property
    def plain(self) -> list[list[list[Any]]]:
        """Lists, numbers and text, of which `of` makes it anew."""
        tokens = [[*place, *around] for place, around in sorted(self.tokens.items())]
        return [tokens, [list(item) for item in sorted(self.sequences.items())]]

    @classmethod
    def of(cls, plain: list[list[list[Any]]]) -> Excerpts:
        """What `plain` was made of."""
        tokens, sequences = plain
        return cls(
            {(row, position): Around(*texts) for row, position, *texts in tokens},
            dict(sequences),
        )


NO_EXCERPTS = Excerpts()


@dataclass(frozen=True)
class Provenance:
    """What was measured on what. All values are JSON; hashes are sha256 in hexadecimal."""

    model: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    corpus: Mapping[str, Any]
    """Among others ``sha256`` and ``n_sequences``: the rows that a whole measurement has."""
    hook: str
    mean_sha256: str
    """Of μ, which mean ablation and explained variance share: shards of two μ do not merge. Empty
    where μ was not found: the columns about it are NaN."""
    formula_versions: Mapping[str, int]
    versions: Mapping[str, str]
    device: str
    hook_out: str | None = None
    """What was replaced, where it is not what was read: a transcoder."""
    paths: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Which path of the engine was taken for what, and why not a faster one: how it was measured,
    not what."""


@dataclass(frozen=True, eq=False)
class FiringSpread:
    """How unevenly latents fire: c is how often one fires on a sequence of n scored tokens."""

    square: NDArray[np.float64]
    """Σ c² over the sequences, shape [d_sae]."""
    by_tokens: NDArray[np.float64]
    """Σ c·n, shape [d_sae]."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """The sums of every sequence, how often every latent fired, and the provenance.

    ``measurement["kl"]`` is the metric's value, ``measurement.estimate("kl")`` adds the interval.
    """

    sequences: NDArray[np.int64]
    """Index of each row's sequence in the corpus, shape [n_sequences], ascending."""
    sums: Mapping[str, NDArray[np.float64]]
    """Column → sum over the scored tokens of each sequence, shape [n_sequences]. Those of
    `ON_REQUEST` may be absent, and those that records of an earlier version do not hold."""
    firings: NDArray[np.int64]
    """Scored tokens on which each latent was not zero, shape [d_sae]."""
    provenance: Provenance
    tokens: TokenTable | None = None
    """The values of single tokens, where they were kept."""
    sources: tuple[str, ...] = ()
    """Where the text of each row comes from; empty where that is not known."""
    excerpts: Excerpts = NO_EXCERPTS
    """The text of the worst of it."""
    spread: FiringSpread | None = None
    """Where an early verdict asked for it; not saved."""
    whole_sq_deviation: float | None = None
    """Σ‖y − μ‖² of all sequences, where only some were measured and it is known; not saved."""

    def __post_init__(self) -> None:
        # Records of earlier versions lack the columns that came later.
        required = {name for name, column in COLUMNS.items() if not column.since}
        if not required <= self.sums.keys() <= {*COLUMNS, *ON_REQUEST}:
            raise ValueError(f"columns are {sorted(self.sums)}, expected {sorted(COLUMNS)}")
        for name, column in self.sums.items():
            if column.shape != self.sequences.shape or column.dtype != np.float64:
                raise ValueError(f"column {name!r} is {column.dtype}{list(column.shape)}")
        if not bool(np.all(np.diff(self.sequences) > 0)):
            raise ValueError("sequence indices are not strictly ascending")
        if self.tokens is not None and len(self.tokens.scored) != len(self.sequences):
            raise ValueError("the token table has not a row per sequence")
        if self.sources and len(self.sources) != len(self.sequences):
            raise ValueError(f"{len(self.sources)} sources of {len(self.sequences)} sequences")

    @property
    def n_sequences(self) -> int:
        """Rows measured."""
        return len(self.sequences)

    @property
    def n_tokens(self) -> int:
        """Scored tokens in all rows."""
        return int(self.sums["n_tokens"].sum())

    def __getitem__(self, name: str) -> float:
        """The metric's value over all rows; raises like `estimate`."""
        return self._value(metric(name))

    def estimate(self, name: str, *, confidence: float = 0.95, whole: bool = True) -> Estimate:
        """The metric's value with its two-sided interval.

        Args:
            name: Of the metric.
            confidence: Of the interval.
            whole: Whether rows may not be missing; without some it is an estimate of the metric.

        Raises:
            SetupError: No metric has this name.
            UndefinedMetricError: Rows are missing, or a column that nobody asked for; a sum is not
                finite, no token was scored, the denominator is too near zero, or there are too few
                tokens for this metric.
        """
        chosen = metric(name)
        value = self._value(chosen, whole=whole)
        interval = None
        if chosen.firing_above is None:
            interval = ratio_interval(
                self._combine(chosen.numerator),
                self._combine(chosen.denominator),
                value,
                confidence=confidence,
            )
        low, high = interval or (None, None)
        return Estimate(value, low, high, self.n_tokens, self.n_sequences, confidence)

    @property
    def token_kl(self) -> TokenKL | None:
        """KL of single tokens, where their values were kept."""
        if self.tokens is None:
            return None
        rows, positions = np.nonzero(self.tokens.scored)
        return TokenKL(
            self.sequences[rows],
            positions.astype(np.int32),
            self.tokens.columns["kl"][rows, positions],
        )

    @property
    def whole(self) -> bool:
        """Whether every sequence of the corpus was measured."""
        return self.n_sequences == self.n_whole

    @property
    def n_whole(self) -> int:
        """Sequences of the corpus, measured or not."""
        return int(self.provenance.corpus["n_sequences"])

    def check_rows(self, name: str, *, whole: bool = True) -> None:
        """Raise `UndefinedMetricError` unless what the metric is made of was measured and counted,
        on every sequence of the corpus if ``whole``.
        """
        for column in metric(name).columns - self.sums.keys():
            how = ON_REQUEST.get(column)
            later = f"sae_guard measures {column} since {ALL_COLUMNS[column].since}"
            options: tuple[Option, ...] = ("controls",) if how else ()
            raise UndefinedMetricError(f"{name} was not measured: {how or later}", options=options)
        if whole and not self.whole:
            raise UndefinedMetricError(
                f"{name}: {self.n_sequences} of the {self.n_whole} sequences were measured"
            )
        if not np.isfinite(self.sums["n_tokens"]).all():
            raise UndefinedMetricError(f"{name}: the token counts are not finite")

    def _value(self, chosen: Metric, *, whole: bool = True) -> float:
        self.check_rows(chosen.name, whole=whole)
        if self.n_tokens < chosen.min_tokens:
            raise UndefinedMetricError(
                f"{chosen.name} needs {chosen.min_tokens:,} scored tokens, "
                f"{self.n_tokens:,} were measured: raise `sequences` or `context` in the spec"
            )
        if chosen.firing_above is not None:
            return self._latent_share(chosen.firing_above)
        try:
            return ratio(
                self._combine(chosen.numerator),
                self._combine(chosen.denominator),
                floor=chosen.min_denominator * self.n_tokens,
            )
        except UndefinedMetricError as error:
            raise UndefinedMetricError(f"{chosen.name} = {chosen.formula}: {error}") from None

    def _combine(self, coefficients: Mapping[str, float]) -> NDArray[np.float64]:
        parts = [factor * self.sums[column] for column, factor in coefficients.items()]
        combined: NDArray[np.float64] = np.sum(parts, axis=0)
        return combined

    def _latent_share(self, firing_above: float) -> float:
        """Share of latents past the firing frequency, or of the silent ones for frequency 0."""
        # A NaN latent counts as firing (NaN ≠ 0), so the shares look healthy when the sums are not.
        if not np.isfinite(self.sums["l1"]).all():
            raise UndefinedMetricError("the latents are not finite")
        frequency = self.firings / self.n_tokens
        chosen = frequency > firing_above if firing_above else frequency == 0
        return float(chosen.mean())
