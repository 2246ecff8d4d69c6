"""`Measurement`: one row per token sequence, one column per sum. Everything meets at this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_guard.core.measurement.excerpts import NO_EXCERPTS, Excerpts
from sae_guard.core.measurement.token_table import TokenKL, TokenTable
from sae_guard.core.metrics.table import COLUMNS, ON_REQUEST, Metric, metric
from sae_guard.core.statistics import Estimate, ratio, ratio_interval
from sae_guard.errors import UndefinedMetricError


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
    `ON_REQUEST` may be absent."""
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
        if set(self.sums) - ON_REQUEST.keys() != set(COLUMNS):
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
            raise UndefinedMetricError(f"{name} was not measured: {ON_REQUEST[column]}")
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
