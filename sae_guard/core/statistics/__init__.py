"""Ratios of pooled sums: values and intervals, paired differences, and sequential tests."""

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
    "NOISE", "Estimate", "quantile", "quantile_interval", "ratio", "ratio_interval", "rescaled",
]  # fmt: skip
