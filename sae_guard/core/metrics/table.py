"""The metrics by name, and the columns that they are made of.

Every metric but the two latent shares is a ratio of pooled sums ``Σ num_i / Σ den_i`` over token
sequences, so estimates, intervals, thresholds and pairings need one formula for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from sae_guard.core.metrics.metric import Metric
from sae_guard.core.metrics.metric import sums as _sum
from sae_guard.errors import SetupError, allowed

__all__ = ["COLUMNS", "METRICS", "ON_REQUEST", "Metric", "metric"]

COLUMNS = (
    "n_tokens",
    "kl",
    "ce_clean",
    "ce_patched",
    "ce_zero",
    "ce_mean",
    "l0",
    "l1",
    "sq_error",
    "sq_deviation",
    "cosine",
    "l2_ratio",
)
"""Per-sequence sums over the scored tokens, in the order in which they are stored."""

ON_REQUEST: Mapping[str, str] = MappingProxyType(
    {
        "kl_random_error": "bound it in the spec, give --sae-controls, or "
        "measure(…, random_error=True)",
    }
)
"""Columns that cost a run of their own, → how to ask for them; absent where nobody did."""

_METRICS = (
    Metric(
        "kl",
        "nats",
        "lower",
        "E_tokens Σ_v P(v)·(log P(v) − log Q(v)); P clean, Q patched",
        _sum(kl=1),
        also_called="SAELens `kl_div_with_sae`; patch loss",
        range=(0, math.inf),
    ),
    Metric(
        "kl_vs_random_error",
        "",
        "lower",
        "kl / kl_random_error, ratio of pooled means",
        _sum(kl=1),
        _sum(kl_random_error=1),
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
        _sum(ce_patched=1, ce_clean=-1),
        also_called="loss added; delta loss; SAEBench `ce_loss_with_sae − ce_loss_without_sae`",
    ),
    Metric(
        "reconstruction_score",
        "",
        "higher",
        "(ce_zero − ce_patched) / (ce_zero − ce_clean), ratio of pooled means",
        _sum(ce_zero=1, ce_patched=-1),
        _sum(ce_zero=1, ce_clean=-1),
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
        _sum(ce_mean=1, ce_patched=-1),
        _sum(ce_mean=1, ce_clean=-1),
        also_called="loss recovered against mean ablation",
        min_denominator=1e-3,
        tail_from=1,
    ),
    Metric(
        "l0",
        "latents/token",
        "window",
        "E_tokens #{latents ≠ 0}; negative latents count",
        _sum(l0=1),
        also_called="sparsity; average number of active features",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "l1",
        "",
        "window",
        "E_tokens Σ |latent|",
        _sum(l1=1),
        also_called="SAELens `l1`",
        range=(0, math.inf),
        tail=5,
    ),
    Metric(
        "explained_variance",
        "",
        "higher",
        "1 − Σ‖x−x̂‖² / Σ‖x−μ‖²; μ the mean of all scored tokens of the set",
        _sum(sq_deviation=1, sq_error=-1),
        _sum(sq_deviation=1),
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
        _sum(sq_error=1),
        _sum(sq_deviation=1),
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
        _sum(sq_error=1),
        also_called="SAELens `mse`; dictionary_learning divides by d_model",
        range=(0, math.inf),
    ),
    Metric(
        "l2_ratio",
        "",
        "window",
        "E_tokens ‖x̂‖ / ‖x‖",
        _sum(l2_ratio=1),
        also_called="SAELens and dictionary_learning `l2_ratio`; shrinkage",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "cosine",
        "",
        "higher",
        "E_tokens cos(x, x̂)",
        _sum(cosine=1),
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
        _sum(ce_clean=1),
        also_called="SAELens `ce_loss_without_sae`; L_original",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "ce_patched",
        "nats",
        "window",
        "the same with the reconstruction patched in",
        _sum(ce_patched=1),
        also_called="SAELens `ce_loss_with_sae`; L_reconstructed",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "ce_zero",
        "nats",
        "window",
        "the same with the activation replaced by zeros",
        _sum(ce_zero=1),
        also_called="SAELens `ce_loss_with_ablation`; L_zero",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "ce_mean",
        "nats",
        "window",
        "the same with the activation replaced by the mean μ",
        _sum(ce_mean=1),
        also_called="L_mean",
        range=(0, math.inf),
        tail=3,
    ),
    Metric(
        "kl_random_error",
        "nats",
        "window",
        "KL with x + ‖x−x̂‖·u patched in; u a random direction per token",
        _sum(kl_random_error=1),
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
        # many rarer ones there are, and whether it matters to a bound: `sae_guard.core.latents`.
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
