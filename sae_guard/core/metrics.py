"""Define the metrics: names, units, directions, and the columns that each is computed from.

Every metric except the two shares of latents is a ratio of pooled sums, Σ num_i / Σ den_i over
token sequences i. So one formula each serves the values, intervals, thresholds and paired
differences of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from sae_guard.errors import SetupError, allowed

Side = Literal["max", "min"]
Direction = Literal["lower", "higher", "window"]

_SIDES: Mapping[Direction, tuple[Side, ...]] = {
    "lower": ("max",),
    "higher": ("min",),
    "window": ("max", "min"),
}


def sums(**coefficients: float) -> Mapping[str, float]:
    """Return a linear combination of columns: column → coefficient."""
    return MappingProxyType(coefficients)


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its better direction, and the ratio of sums that it is."""

    name: str
    unit: str
    direction: Direction
    formula: str
    numerator: Mapping[str, float] = field(default_factory=dict)
    denominator: Mapping[str, float] = field(default_factory=lambda: sums(n_tokens=1))
    also_called: str = ""
    version: int = 1
    """Version of the formula; values of two versions are never compared."""
    min_denominator: float = 0.0
    """Value per scored token that the denominator has to exceed for the ratio to be defined."""
    min_tokens: int = 1
    """Least number of scored tokens; with fewer the metric is undefined and a spec that bounds it
    is refused."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """Smallest and largest possible value; a bound outside could never pass or never fail."""
    firing_above: float | None = None
    """Firing frequency above which a latent is counted, for shares of latents; 0 counts the latents
    that never fire. None for ratios of sums."""
    tail_from: float = 0.0
    """Value near which most sequences lie: 0, with a heavy tail above, or 1, with one below.
    Margins of bounds are relative to the distance from it (`sae_guard.core.tightening`)."""
    tail: float = 10.0
    """Largest deviation that an early verdict assumes for an unseen sequence, as a multiple of the
    distance from ``tail_from`` to the bound (`docs/explanation/early-verdicts.md`)."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """Bounds that a spec may set: ``max`` where lower is better, ``min`` where higher is."""
        return _SIDES[self.direction]

    @property
    def columns(self) -> frozenset[str]:
        """Columns in the numerator and the denominator."""
        return frozenset({*self.numerator, *self.denominator})


Need = Literal[
    "clean run", "patched run", "random error run", "ablated run", "reconstruction", "latents",
    "mean activation",
]  # fmt: skip
"""Input of a column besides the tokens.

A run of the model is clean, patched with the reconstruction, patched with a random error of the
same length, or ablated with zeros or μ in place of the activation. The mean activation μ needs a
run over all tokens of the set.
"""


Rounding = Literal["per token", "per variance", "firings", "none"]
"""Unit in which float32 rounding of logits and activations changes the sum of a column.

``per token``: a constant for each token (in nats, or of a cosine or a ratio of lengths). ``per
variance``: a fraction of the variance of the activation. ``firings``: a few firings of latents.
``none``: negligible, for exact counts and for sums of terms of one sign.
"""


@dataclass(frozen=True)
class Column:
    """One number per scored token; a measurement holds its sum over each sequence."""

    unit: str
    formula: str
    needs: frozenset[Need] = frozenset()
    of_tokens: bool = True
    """True where a `TokenTable` holds the column."""
    summed: bool = True
    """True where a measurement holds the sums over sequences."""
    on_request: str = ""
    """Instruction how to request a column that costs a run of its own; empty for one that is always
    measured."""
    rounding: Rounding = "per token"
    """Unit of the effect of float32 rounding on the sum; see `Rounding`."""
    since: str = ""
    """First version of the package whose records hold the column; empty where all do."""
    typical: tuple[float, float] = (0.0, 2.0)
    """Range of usual values of tokens, from which `sae_guard.testing` draws."""

    @property
    def depends_on_sae(self) -> bool:
        """True where another SAE at the same hook point gives other values."""
        return bool(self.needs & {"patched run", "random error run", "reconstruction", "latents"})

    @property
    def of_hook_point(self) -> bool:
        """True where the values depend on the hook point: ablations, and deviations from μ."""
        return bool(self.needs & {"ablated run", "mean activation"})


def needs(*names: Need) -> frozenset[Need]:
    """Return the inputs of a column as a set."""
    return frozenset(names)


ALL_COLUMNS: Mapping[str, Column] = MappingProxyType({
    # 1 for every scored token: a table of single tokens has no use for it.
    "n_tokens": Column("tokens", "1", of_tokens=False, rounding="none"),
    "kl": Column("nats", "KL(clean prediction ‖ patched prediction)",
                 needs("clean run", "patched run")),
    "ce_clean": Column("nats", "−log of the clean probability of the next token",
                       needs("clean run"), typical=(1, 3)),
    "ce_patched": Column("nats", "−log of its probability with the SAE patched in",
                         needs("patched run")),
    "ce_zero": Column("nats", "−log of its probability with the activation set to zeros",
                      needs("ablated run")),
    "ce_mean": Column("nats", "−log of its probability with the activation set to μ",
                      needs("ablated run", "mean activation")),
    "entropy": Column("nats", "entropy of the clean prediction", needs("clean run"), summed=False),
    "l0": Column("latents", "number of latents that are not zero",
                 needs("latents"), rounding="firings", typical=(1, 12)),
    "l1": Column("", "sum of the absolute values of the latents",
                 needs("latents"), rounding="none", typical=(1, 50)),
    "sq_error": Column("", "squared distance of activation and reconstruction",
                       needs("reconstruction"), rounding="per variance"),
    # μ is known only after all tokens were read, when single activations are no longer held.
    "sq_deviation": Column("", "squared distance of activation and μ", needs("mean activation"),
                           of_tokens=False, rounding="per variance", typical=(1, 9)),
    "cosine": Column("", "cosine of activation and reconstruction",
                     needs("reconstruction"), typical=(-1, 1)),
    "l2_ratio": Column("", "length of the reconstruction over that of the activation",
                       needs("reconstruction"), typical=(0.1, 2)),
    "kl_random_error": Column(
        "nats", "KL(clean prediction ‖ prediction with a random error as long as that of the SAE)",
        needs("clean run", "random error run"), typical=(0.01, 1),
        on_request="bound it in the spec, ask for the controls, or, from Python, call "
        "measure(…, random_error=True)",
    ),
})  # fmt: skip
"""Every column, in storage order. `sae_guard.engine.token_metrics` has the torch formula of each
under the same name; a test holds the two together."""

COLUMNS: Mapping[str, Column] = MappingProxyType({
    name: column for name, column in ALL_COLUMNS.items() if column.summed and not column.on_request
})  # fmt: skip
"""Columns whose sums every measurement has."""

ON_REQUEST: Mapping[str, str] = MappingProxyType(
    {name: column.on_request for name, column in ALL_COLUMNS.items() if column.on_request}
)
"""Column that costs a run of its own → instruction how to request it; absent unless requested."""

_POSITIVE = (0, math.inf)
"""Range of values that are never negative."""


def _mean(name: str, unit: str, direction: Direction, formula: str, **properties: Any) -> Metric:
    """Return the metric that is the mean over tokens of the column of the same name."""
    return Metric(name, unit, direction, formula, sums(**{name: 1}), **properties)


_METRICS = (
    _mean("kl", "nats", "lower",
          "E_tokens Σ_v P(v)·(log P(v) − log Q(v)); P clean, Q patched",
          also_called="SAELens `kl_div_with_sae`; patch loss", range=_POSITIVE),
    Metric("kl_vs_random_error", "", "lower", "kl / kl_random_error, ratio of pooled means",
           sums(kl=1), sums(kl_random_error=1), range=_POSITIVE,
           also_called="how pathological the error is (Gurnee 2024)",
           # A smaller KL is made of the rounding of float32 logits.
           min_denominator=1e-5),
    Metric("ce_increase", "nats", "lower", "ce_patched − ce_clean", sums(ce_patched=1, ce_clean=-1),
           also_called="loss added; delta loss; SAEBench "
           "`ce_loss_with_sae − ce_loss_without_sae`"),
    Metric("reconstruction_score", "", "higher",
           "(ce_zero − ce_patched) / (ce_zero − ce_clean), ratio of pooled means",
           sums(ce_zero=1, ce_patched=-1), sums(ce_zero=1, ce_clean=-1), tail_from=1,
           also_called="SAELens `ce_loss_score`; loss recovered; dictionary_learning "
           "`frac_recovered` (which averages per batch: not the same)",
           # A few thousand tokens do not resolve an ablation that costs less than 0.001 nats.
           min_denominator=1e-3),
    Metric("reconstruction_score[mean]", "", "higher",
           "(ce_mean − ce_patched) / (ce_mean − ce_clean), ratio of pooled means",
           sums(ce_mean=1, ce_patched=-1), sums(ce_mean=1, ce_clean=-1), tail_from=1,
           also_called="loss recovered against mean ablation", min_denominator=1e-3),
    _mean("l0", "latents/token", "window", "E_tokens #{latents ≠ 0}; negative latents count",
          also_called="sparsity; average number of active features", range=_POSITIVE, tail=3),
    _mean("l1", "", "window", "E_tokens Σ |latent|",
          also_called="SAELens `l1`", range=_POSITIVE, tail=5),
    Metric("explained_variance", "", "higher",
           "1 − Σ‖x−x̂‖² / Σ‖x−μ‖²; μ the mean of all scored tokens of the set",
           sums(sq_deviation=1, sq_error=-1), sums(sq_deviation=1), min_denominator=1e-12,
           also_called="1 − FVU; R²; SAELens `explained_variance`",
           range=(-math.inf, 1), tail_from=1, tail=5),
    Metric("fvu", "", "lower",
           "Σ‖x−x̂‖² / Σ‖x−μ‖²; μ the mean of all scored tokens of the set",
           sums(sq_error=1), sums(sq_deviation=1), min_denominator=1e-12,
           also_called="fraction of variance unexplained; normalised MSE",
           range=_POSITIVE, tail=5),
    Metric("mse", "", "lower", "E_tokens ‖x−x̂‖², summed over d_model", sums(sq_error=1),
           also_called="SAELens `mse`; dictionary_learning divides by d_model", range=_POSITIVE),
    _mean("l2_ratio", "", "window", "E_tokens ‖x̂‖ / ‖x‖",
          also_called="SAELens and dictionary_learning `l2_ratio`; shrinkage",
          range=_POSITIVE, tail=3),
    _mean("cosine", "", "higher", "E_tokens cos(x, x̂)",
          also_called="`cossim`", range=(-1, 1), tail_from=1, tail=5),
    _mean("ce_clean", "nats", "window", "cross-entropy of the next token, unperturbed",
          also_called="SAELens `ce_loss_without_sae`; L_original", range=_POSITIVE, tail=3),
    _mean("ce_patched", "nats", "window", "the same with the reconstruction patched in",
          also_called="SAELens `ce_loss_with_sae`; L_reconstructed", range=_POSITIVE, tail=3),
    _mean("ce_zero", "nats", "window", "the same with the activation replaced by zeros",
          also_called="SAELens `ce_loss_with_ablation`; L_zero", range=_POSITIVE, tail=3),
    _mean("ce_mean", "nats", "window", "the same with the activation replaced by the mean μ",
          also_called="L_mean", range=_POSITIVE, tail=3),
    _mean("kl_random_error", "nats", "window",
          "KL with x + ‖x−x̂‖·u patched in; u a random direction per token",
          also_called="ε-random substitution", range=_POSITIVE),
    Metric("dead_latents", "share", "lower", "share of latents that never fire",
           also_called="SAEBench `frac_alive` = 1 − it", range=(0, 1), firing_above=0.0,
           # A latent that fires on 1 token in 1,000 is silent on 10,000 with probability e⁻¹⁰. For
           # rarer ones see `sae_guard.core.verdicts.too_few_tokens`.
           min_tokens=10_000),
    Metric("dense_latents", "share", "lower",
           "share of latents that fire on more than 10 % of the tokens",
           also_called="SAEBench `freq_over_10_percent`", range=(0, 1), firing_above=0.1,
           # The frequency 0.1 has a standard error of 0.0095 at 1,000 tokens.
           min_tokens=1_000),
)  # fmt: skip

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _METRICS})
"""Every metric that a threshold can name."""


def metric(name: str) -> Metric:
    """Return the metric of this name; raise `SetupError` with the nearest names for another."""
    if name not in METRICS:
        hint = allowed(name, METRICS, limit=len(METRICS))
        raise SetupError(f"unknown metric {name!r}; {hint}")
    return METRICS[name]
