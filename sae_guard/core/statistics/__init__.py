"""Ratios of pooled sums: their values, their intervals, and when the first rows decide for all."""

from sae_guard.core.statistics.ratios import (
    NOISE,
    Estimate,
    quantile,
    quantile_interval,
    ratio,
    ratio_interval,
    rescaled,
)

__all__ = [
    "NOISE",
    "Estimate",
    "quantile",
    "quantile_interval",
    "ratio",
    "ratio_interval",
    "rescaled",
]
