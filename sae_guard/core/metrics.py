"""Define the metrics: names, units, directions, and the columns that each is made of.

Every metric but the two latent shares is a ratio of pooled sums ``Σ num_i / Σ den_i`` over token
sequences, so estimates, intervals, thresholds and pairings need one formula for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sae_guard.errors import SetupError, allowed

Side = Literal["max", "min"]
Direction = Literal["lower", "higher", "window"]

_SIDES: Mapping[Direction, tuple[Side, ...]] = {
    "lower": ("max",),
    "higher": ("min",),
    "window": ("max", "min"),
}


def sums(**coefficients: float) -> Mapping[str, float]:
    """Column → its coefficient."""
    return MappingProxyType(coefficients)


@dataclass(frozen=True)
class Metric:
    """One metric: how it is called, which way is better, and what it is a ratio of."""

    name: str
    unit: str
    direction: Direction
    formula: str
    numerator: Mapping[str, float] = field(default_factory=dict)
    denominator: Mapping[str, float] = field(default_factory=lambda: sums(n_tokens=1))
    also_called: str = ""
    version: int = 1
    """Raised whenever the formula changes: numbers of two versions are never compared."""
    min_denominator: float = 0.0
    """Per scored token; at or below it the ratio is undefined."""
    min_tokens: int = 1
    """Scored tokens below which the metric is undefined, and a bound on it refused."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """What the value can be: a bound outside it cannot pass, or cannot fail."""
    firing_above: float | None = None
    """For latent shares: the firing frequency that counts a latent in (see `latent_share`)."""
    tail_from: float = 0.0
    """Where the values of sequences crowd; their heavy tail leads away from it, above 0 and below
    1. Margins of bounds are a share of the distance from there (`sae_guard.core.tightening`)."""
    tail: float = 10.0
    """How far out a sequence may be that was not seen yet, in distances of the bound from there:
    what an early verdict reckons with (`docs/statistics.md`)."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """The bounds that make sense: ``max`` where lower is better, ``min`` where higher is."""
        return _SIDES[self.direction]

    @property
    def columns(self) -> frozenset[str]:
        """What it is made of."""
        return frozenset({*self.numerator, *self.denominator})


Need = Literal[
    "clean run",
    "patched run",
    "random error run",
    "ablated run",
    "reconstruction",
    "latents",
    "mean activation",
]
"""What a column is computed from, beside the tokens: runs of the model (clean, with the
reconstruction, with a random error as long, with zeros or μ in place of the activation), the
activation and its reconstruction, the latents, and μ, which takes all tokens of the set."""


Rounding = Literal["per token", "per variance", "firings", "none"]
"""What the rounding of float32 logits and activations moves the sum of a column by.

So much for each token (in nats, or of a cosine or a ratio of lengths); so much of the variance of
the activation; a few firings of latents; or nothing, for exact counts and for sums of terms of one
sign.
"""


@dataclass(frozen=True)
class Column:
    """One number of each scored token, of which a measurement holds the sum over each sequence."""

    unit: str
    formula: str
    needs: frozenset[Need] = frozenset()
    of_tokens: bool = True
    """Whether the table of single tokens holds it."""
    summed: bool = True
    """Whether a measurement holds its sums over sequences."""
    on_request: str = ""
    """How to ask for a column that costs a run of its own; empty for one that is always there."""
    rounding: Rounding = "per token"
    """What float32 rounding moves its sum by; see `Rounding`."""
    since: str = ""
    """First version of the package whose records hold it; empty where all do."""
    typical: tuple[float, float] = (0.0, 2.0)
    """Between which values tokens usually lie: `sae_guard.testing` draws from there."""

    @property
    def depends_on_sae(self) -> bool:
        """Say whether another SAE at the same hook point gives other values."""
        return bool(self.needs & {"patched run", "random error run", "reconstruction", "latents"})

    @property
    def of_hook_point(self) -> bool:
        """Say whether it is of the hook point alone: of ablations, or of activations and μ."""
        return bool(self.needs & {"ablated run", "mean activation"})


def needs(*names: Need) -> frozenset[Need]:
    """Collect what a column is computed from."""
    return frozenset(names)


ALL_COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        # No token alone has a count that tells anything.
        "n_tokens": Column("tokens", "1", of_tokens=False, rounding="none"),
        "kl": Column(
            "nats",
            "KL(clean prediction ‖ patched prediction)",
            needs("clean run", "patched run"),
        ),
        "ce_clean": Column(
            "nats",
            "−log of the clean probability of the next token",
            needs("clean run"),
            typical=(1, 3),
        ),
        "ce_patched": Column(
            "nats", "−log of its probability with the SAE patched in", needs("patched run")
        ),
        "ce_zero": Column(
            "nats",
            "−log of its probability with the activation set to zeros",
            needs("ablated run"),
        ),
        "ce_mean": Column(
            "nats",
            "−log of its probability with the activation set to μ",
            needs("ablated run", "mean activation"),
        ),
        "entropy": Column(
            "nats", "entropy of the clean prediction", needs("clean run"), summed=False
        ),
        "l0": Column(
            "latents",
            "number of latents that are not zero",
            needs("latents"),
            rounding="firings",
            typical=(1, 12),
        ),
        "l1": Column(
            "",
            "sum of the absolute values of the latents",
            needs("latents"),
            rounding="none",
            typical=(1, 50),
        ),
        "sq_error": Column(
            "",
            "squared distance of activation and reconstruction",
            needs("reconstruction"),
            rounding="per variance",
        ),
        # μ is known when all tokens have gone by: single tokens are not held until then.
        "sq_deviation": Column(
            "",
            "squared distance of activation and μ",
            needs("mean activation"),
            of_tokens=False,
            rounding="per variance",
            typical=(1, 9),
        ),
        "cosine": Column(
            "",
            "cosine of activation and reconstruction",
            needs("reconstruction"),
            typical=(-1, 1),
        ),
        "l2_ratio": Column(
            "",
            "length of the reconstruction over that of the activation",
            needs("reconstruction"),
            typical=(0.1, 2),
        ),
        "kl_random_error": Column(
            "nats",
            "KL(clean prediction ‖ prediction with a random error as long as that of the SAE)",
            needs("clean run", "random error run"),
            on_request="bound it in the spec, ask for the controls, or, from Python, call "
            "measure(…, random_error=True)",
            typical=(0.01, 1),
        ),
    }
)
"""Every column, in the order in which they are stored; `sae_guard.engine.token_metrics` has the
formula of each as tensors, under the same name."""

COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        name: column
        for name, column in ALL_COLUMNS.items()
        if column.summed and not column.on_request
    }
)
"""The sums that every measurement has."""

ON_REQUEST: Mapping[str, str] = MappingProxyType(
    {name: column.on_request for name, column in ALL_COLUMNS.items() if column.on_request}
)
"""Columns that cost a run of their own, → how to get them; absent where they were not requested."""

_METRICS = (
    Metric(
        "kl",
        "nats",
        "lower",
        "E_tokens Σ_v P(v)·(log P(v) − log Q(v)); P clean, Q patched",
        sums(kl=1),
        also_called="SAELens `kl_div_with_sae`; patch loss",
        range=(0, math.inf),
    ),
    Metric(
        "kl_vs_random_error",
        "",
        "lower",
        "kl / kl_random_error, ratio of pooled means",
        sums(kl=1),
        sums(kl_random_error=1),
        also_called="how pathological the error is (Gurnee 2024)",
        # Nearer to zero than this, KL is made of the rounding of float32 logits.
        min_denominator=1e-5,
        range=(0, math.inf),
    ),
    Metric(
        "ce_increase",
        "nats",
        "lower",
        "ce_patched − ce_clean",
        sums(ce_patched=1, ce_clean=-1),
        also_called="loss added; delta loss; SAEBench `ce_loss_with_sae − ce_loss_without_sae`",
    ),
    Metric(
        "reconstruction_score",
        "",
        "higher",
        "(ce_zero − ce_patched) / (ce_zero − ce_clean), ratio of pooled means",
        sums(ce_zero=1, ce_patched=-1),
        sums(ce_zero=1, ce_clean=-1),
        also_called="SAELens `ce_loss_score`; loss recovered; dictionary_learning "
        "`frac_recovered` (which averages per batch: not the same)",
        # A thousandth of a nat of harm by ablation is below what a few thousand tokens resolve.
        min_denominator=1e-3,
        tail_from=1,
    ),
    Metric(
        "reconstruction_score[mean]",
        "",
        "higher",
        "(ce_mean − ce_patched) / (ce_mean − ce_clean), ratio of pooled means",
        sums(ce_mean=1, ce_patched=-1),
        sums(ce_mean=1, ce_clean=-1),
        also_called="loss recovered against mean ablation",
        min_denominator=1e-3,
        tail_from=1,
    ),
    Metric(
        "l0",
        "latents/token",
        "window",
        "E_tokens #{latents ≠ 0}; negative latents count",
        sums(l0=1),
        also_called="sparsity; average number of active features",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "l1",
        "",
        "window",
        "E_tokens Σ |latent|",
        sums(l1=1),
        also_called="SAELens `l1`",
        range=(0, math.inf),
        tail=5,
    ),
    Metric(
        "explained_variance",
        "",
        "higher",
        "1 − Σ‖x−x̂‖² / Σ‖x−μ‖²; μ the mean of all scored tokens of the set",
        sums(sq_deviation=1, sq_error=-1),
        sums(sq_deviation=1),
        also_called="1 − FVU; R²; SAELens `explained_variance`",
        min_denominator=1e-12,
        range=(-math.inf, 1),
        tail_from=1,
        tail=5,
    ),
    Metric(
        "fvu",
        "",
        "lower",
        "Σ‖x−x̂‖² / Σ‖x−μ‖²; μ the mean of all scored tokens of the set",
        sums(sq_error=1),
        sums(sq_deviation=1),
        also_called="fraction of variance unexplained; normalised MSE",
        min_denominator=1e-12,
        range=(0, math.inf),
        tail=5,
    ),
    Metric(
        "mse",
        "",
        "lower",
        "E_tokens ‖x−x̂‖², summed over d_model",
        sums(sq_error=1),
        also_called="SAELens `mse`; dictionary_learning divides by d_model",
        range=(0, math.inf),
    ),
    Metric(
        "l2_ratio",
        "",
        "window",
        "E_tokens ‖x̂‖ / ‖x‖",
        sums(l2_ratio=1),
        also_called="SAELens and dictionary_learning `l2_ratio`; shrinkage",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "cosine",
        "",
        "higher",
        "E_tokens cos(x, x̂)",
        sums(cosine=1),
        also_called="`cossim`",
        range=(-1, 1),
        tail_from=1,
        tail=5,
    ),
    Metric(
        "ce_clean",
        "nats",
        "window",
        "cross-entropy of the next token, unperturbed",
        sums(ce_clean=1),
        also_called="SAELens `ce_loss_without_sae`; L_original",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "ce_patched",
        "nats",
        "window",
        "the same with the reconstruction patched in",
        sums(ce_patched=1),
        also_called="SAELens `ce_loss_with_sae`; L_reconstructed",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "ce_zero",
        "nats",
        "window",
        "the same with the activation replaced by zeros",
        sums(ce_zero=1),
        also_called="SAELens `ce_loss_with_ablation`; L_zero",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "ce_mean",
        "nats",
        "window",
        "the same with the activation replaced by the mean μ",
        sums(ce_mean=1),
        also_called="L_mean",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "kl_random_error",
        "nats",
        "window",
        "KL with x + ‖x−x̂‖·u patched in; u a random direction per token",
        sums(kl_random_error=1),
        also_called="ε-random substitution",
        range=(0, math.inf),
    ),
    Metric(
        "dead_latents",
        "share",
        "lower",
        "share of latents that never fire",
        also_called="SAEBench `frac_alive` = 1 − it",
        # A latent that fires on 1 token in 1,000 stays silent over 10,000 with chance e⁻¹⁰. How
        # many rarer ones there are, and whether it matters to a bound: `sae_guard.core.verdicts`.
        min_tokens=10_000,
        firing_above=0.0,
        range=(0, 1),
    ),
    Metric(
        "dense_latents",
        "share",
        "lower",
        "share of latents that fire on more than 10 % of the tokens",
        also_called="SAEBench `freq_over_10_percent`",
        # The frequency 0.1 has a standard error of 0.0095 at 1,000 tokens.
        min_tokens=1_000,
        firing_above=0.1,
        range=(0, 1),
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _METRICS})
"""Every metric that a threshold can name."""


def metric(name: str) -> Metric:
    """The metric called ``name``; raises `SetupError` with the nearest names."""
    if name not in METRICS:
        hint = allowed(name, METRICS, limit=len(METRICS))
        raise SetupError(f"unknown metric {name!r}; {hint}")
    return METRICS[name]
