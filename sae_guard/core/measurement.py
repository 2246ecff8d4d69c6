"""`Measurement`: a table of one row per token sequence and one column per sum.

The engine writes it; verdicts, comparisons, records and reports read it. It can also hold the
values of single tokens (`TokenTable`), for quantiles and slices, and the text around the worst
tokens (`Excerpts`).
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
"""Columns that every `TokenTable` has."""


@dataclass(frozen=True, eq=False)
class TokenKL:
    """KL of every scored token in the order of the corpus, as records store it."""

    sequences: NDArray[np.int64]
    """Index of each token's sequence in the corpus, shape [n_tokens]."""
    positions: NDArray[np.int32]
    """Position of each token in its sequence, shape [n_tokens]; position p predicts token p + 1."""
    kl: NDArray[np.float32]
    """KL in nats, shape [n_tokens]."""

    def __post_init__(self) -> None:
        for name, dtype in (("sequences", np.int64), ("positions", np.int32), ("kl", np.float32)):
            column = getattr(self, name)
            if column.shape != self.kl.shape or column.ndim != 1 or column.dtype != dtype:
                raise ValueError(
                    f"{name} of tokens is {column.dtype}{list(column.shape)}, expected "
                    f"{np.dtype(dtype)}[{len(self.kl)}]"
                )


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Values of every scored token; position p predicts token p + 1."""

    scored: NDArray[np.bool_]
    """True where a position is scored, shape [n_sequences, pos]."""
    columns: Mapping[str, NDArray[np.float32]]
    """Column → values, shape [n_sequences, pos], 0 where the position is not scored. Columns of
    `ON_REQUEST` may be absent."""

    def __post_init__(self) -> None:
        if set(self.columns) - ON_REQUEST.keys() != set(TOKEN_COLUMNS):
            raise ValueError(
                f"token columns are {sorted(self.columns)}, expected {sorted(TOKEN_COLUMNS)}"
            )
        for name, column in self.columns.items():
            if column.shape != self.scored.shape or column.dtype != np.float32:
                raise ValueError(
                    f"token column {name!r} is {column.dtype}{list(column.shape)}, expected "
                    f"float32{list(self.scored.shape)}"
                )

    def combined(self, coefficients: Mapping[str, float]) -> NDArray[np.float64]:
        """Return Σ coefficient · column per token, in float64, shape [n_sequences, pos]."""
        total = np.zeros(self.scored.shape)
        for name, factor in coefficients.items():
            total += factor * self.columns[name].astype(np.float64)
        return total

    def sums(self, mask: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Sum the columns per sequence over the scored tokens of a mask.

        Args:
            mask: Tokens to sum over, shape [n_sequences, pos].

        Returns:
            Column → sums, shape [n_sequences]; ``n_tokens`` counts the tokens.
        """
        tokens = self.scored & mask
        sums = {
            # Not a product with the mask: NaN · 0 is NaN.
            name: np.where(tokens, column, 0).sum(axis=1, dtype=np.float64)
            for name, column in self.columns.items()
            if ALL_COLUMNS[name].summed
        }
        return {**sums, "n_tokens": tokens.sum(axis=1, dtype=np.float64)}


class Around(NamedTuple):
    """The text around one prediction."""

    before: str
    """Text of the tokens before."""
    token: str
    """Text of the token at whose position the model predicts."""
    next: str
    """Text of the token that follows: the one to predict."""


NO_TEXT = Around("", "", "")


@dataclass(frozen=True)
class Excerpts:
    """Texts of some tokens and sequences; sequences go by their index in the corpus."""

    tokens: Mapping[tuple[int, int], Around] = field(default_factory=dict)
    """(sequence, position) → text around it."""
    sequences: Mapping[int, str] = field(default_factory=dict)
    """Sequence → beginning of its text."""

    @property
    def plain(self) -> list[list[list[Any]]]:
        """The excerpts as lists, numbers and text for JSON; `from_plain` reads them."""
        tokens = [[*place, *around] for place, around in sorted(self.tokens.items())]
        return [tokens, [list(item) for item in sorted(self.sequences.items())]]

    @classmethod
    def from_plain(cls, plain: list[list[list[Any]]]) -> Excerpts:
        """Build excerpts from what `plain` returned."""
        tokens, sequences = plain
        return cls(
            {(row, position): Around(*texts) for row, position, *texts in tokens}, dict(sequences)
        )


NO_EXCERPTS = Excerpts()


@dataclass(frozen=True)
class Provenance:
    """Model, checkpoint, corpus and software of a measurement.

    All values are JSON; hashes are sha256 in hexadecimal.
    """

    model: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    corpus: Mapping[str, Any]
    """Description of the token set; ``n_sequences`` is the number of rows of a full measurement."""
    hook: str
    mean_sha256: str
    """Hash of the mean activation μ, which mean ablation and explained variance use; shards with
    different μ cannot be merged. Empty where μ was not computed: the columns that need it are NaN.
    """
    formula_versions: Mapping[str, int]
    versions: Mapping[str, str]
    device: str
    hook_out: str | None = None
    """Hook point whose activation is replaced, for a transcoder; None where it is ``hook``."""
    paths: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Step of the engine → the path taken, and why not a faster one. It does not change what is
    measured and is not compared."""


@dataclass(frozen=True, eq=False)
class FiringSpread:
    """Second moments of the firing counts.

    A latent fires c times in a sequence of n scored tokens.
    """

    square: NDArray[np.float64]
    """Σ c² over the sequences, shape [d_sae]."""
    by_tokens: NDArray[np.float64]
    """Σ c·n over the sequences, shape [d_sae]."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Sums per sequence, firing counts per latent, and provenance.

    ``measurement["kl"]`` is the value of a metric; ``measurement.estimate("kl")`` adds an interval.
    """

    sequences: NDArray[np.int64]
    """Index of each row's sequence in the corpus, shape [n_sequences], ascending."""
    sums: Mapping[str, NDArray[np.float64]]
    """Column → sum over the scored tokens of each sequence, shape [n_sequences]. Columns of
    `ON_REQUEST` may be absent, and those newer than the version that wrote a record."""
    firings: NDArray[np.int64]
    """Number of scored tokens on which each latent is not zero, shape [d_sae]."""
    provenance: Provenance
    tokens: TokenTable | None = None
    """Values of single tokens; None where they were not stored."""
    sources: tuple[str, ...] = ()
    """Source of the text of each row; empty where unknown."""
    excerpts: Excerpts = NO_EXCERPTS
    """Texts of the worst tokens and sequences."""
    spread: FiringSpread | None = None
    """Second moments of the firing counts, for early verdicts on dense latents; not saved."""
    whole_sq_deviation: float | None = None
    """Σ‖y − μ‖² over the whole corpus, y the activation to reconstruct; set where only some
    sequences were measured and it is known; not saved."""

    def __post_init__(self) -> None:
        # Records of earlier versions lack the columns that came later.
        required = {name for name, column in COLUMNS.items() if not column.since}
        if not required <= self.sums.keys() <= {*COLUMNS, *ON_REQUEST}:
            raise ValueError(f"columns are {sorted(self.sums)}, expected {sorted(COLUMNS)}")
        for name, column in self.sums.items():
            if column.shape != self.sequences.shape or column.dtype != np.float64:
                raise ValueError(
                    f"column {name!r} is {column.dtype}{list(column.shape)}, expected "
                    f"float64{list(self.sequences.shape)}"
                )
        # Two measurements are paired row by row, and sequences are looked up by bisection.
        if not bool(np.all(np.diff(self.sequences) > 0)):
            raise ValueError("sequence indices are not strictly ascending: sort the rows by index")
        if self.tokens is not None and len(self.tokens.scored) != len(self.sequences):
            raise ValueError(
                f"the token table has {len(self.tokens.scored)} rows, expected one for each of the "
                f"{len(self.sequences)} sequences"
            )
        if self.sources and len(self.sources) != len(self.sequences):
            raise ValueError(
                f"{len(self.sources)} sources of {len(self.sequences)} sequences, expected one for "
                "each sequence or none"
            )

    def source(self, row: int) -> str:
        """Return the source of the text of a row; empty where unknown."""
        return self.sources[row] if self.sources else ""

    @property
    def n_sequences(self) -> int:
        """Number of sequences measured, one row each."""
        return len(self.sequences)

    @property
    def n_tokens(self) -> int:
        """Number of scored tokens in all rows."""
        return int(self.sums["n_tokens"].sum())

    def __getitem__(self, name: str) -> float:
        """Return the value of a metric over all rows; raise like `estimate`."""
        return self._value(metric(name))

    def get(self, name: str) -> float | None:
        """Return the value of a metric over all rows; None where it is undefined."""
        try:
            return self[name]
        except UndefinedMetricError:
            return None

    def estimate(self, name: str, *, confidence: float = 0.95, whole: bool = True) -> Estimate:
        """Return the value of a metric with its two-sided interval (`ratio_interval`).

        Args:
            name: Name of the metric.
            confidence: Confidence level of the interval, such as 0.95.
            whole: True to require every sequence of the corpus; False also accepts the first rows,
                and the result is then an estimate of the metric.

        Raises:
            SetupError: There is no metric of this name.
            UndefinedMetricError: Rows are missing; a column is missing because it was not
                requested; a sum is not finite; no token was scored; the denominator is too near
                zero; or there are too few tokens for this metric.
        """
        definition = metric(name)
        value = self._value(definition, whole=whole)
        interval = None
        if definition.firing_above is None:
            interval = ratio_interval(
                combined(self.sums, definition.numerator),
                combined(self.sums, definition.denominator),
                value,
                confidence=confidence,
            )
        low, high = interval or (None, None)
        return Estimate(value, low, high, self.n_tokens, self.n_sequences, confidence)

    @property
    def token_kl(self) -> TokenKL | None:
        """KL of single tokens; None without a token table."""
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
        """True where every sequence of the corpus was measured."""
        return self.n_sequences == self.n_whole

    @property
    def n_whole(self) -> int:
        """Number of sequences of the corpus, measured or not."""
        return int(self.provenance.corpus["n_sequences"])

    def check_rows(self, name: str, *, whole: bool = True) -> None:
        """Check that the columns of a metric were measured.

        Args:
            name: Name of the metric.
            whole: True to require every sequence of the corpus.

        Raises:
            UndefinedMetricError: A column or a row is missing, or a token count is not finite.
        """
        for column in metric(name).columns - self.sums.keys():
            request = ON_REQUEST.get(column)
            too_old = f"sae_guard measures {column} since {ALL_COLUMNS[column].since}"
            options: tuple[Option, ...] = ("controls",) if request else ()
            message = f"{name} was not measured: {request or too_old}"
            raise UndefinedMetricError(message, options=options)
        if whole and not self.whole:
            raise UndefinedMetricError(
                f"{name}: {self.n_sequences} of the {self.n_whole} sequences were measured"
            )
        if not np.isfinite(self.sums["n_tokens"]).all():
            raise UndefinedMetricError(f"{name}: the token counts are not finite")

    def _value(self, definition: Metric, *, whole: bool = True) -> float:
        self.check_rows(definition.name, whole=whole)
        if self.n_tokens < definition.min_tokens:
            raise UndefinedMetricError(
                f"{definition.name} needs {definition.min_tokens:,} scored tokens, "
                f"{self.n_tokens:,} were measured: raise `sequences` or `context` in the spec"
            )
        if definition.firing_above is not None:
            return self._latent_share(definition.firing_above)
        try:
            return ratio(
                combined(self.sums, definition.numerator),
                combined(self.sums, definition.denominator),
                floor=definition.min_denominator * self.n_tokens,
            )
        except UndefinedMetricError as error:
            raise UndefinedMetricError(
                f"{definition.name} = {definition.formula}: {error}"
            ) from None

    def _latent_share(self, firing_above: float) -> float:
        """Return the share of latents that fire more often; for frequency 0, of the silent ones."""
        # A NaN latent counts as firing (NaN ≠ 0): without this check the shares would look healthy.
        if not np.isfinite(self.sums["l1"]).all():
            raise UndefinedMetricError("the latents are not finite")
        frequency = self.firings / self.n_tokens
        counted = frequency > firing_above if firing_above else frequency == 0
        return float(counted.mean())


def combined(
    sums: Mapping[str, NDArray[np.float64]], coefficients: Mapping[str, float]
) -> NDArray[np.float64]:
    """Return Σ coefficient · column per sequence, shape [n_sequences]."""
    parts = [factor * sums[column] for column, factor in coefficients.items()]
    total: NDArray[np.float64] = np.sum(parts, axis=0)
    return total
