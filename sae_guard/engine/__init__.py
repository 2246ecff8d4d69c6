"""Measure SAEs in a language model: (model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.activation_stats import ActivationStats, activation_stats
from sae_guard.engine.intervention import HookSite, Intervention
from sae_guard.engine.measure import measure, measure_all, measure_until

__all__ = [
    "ActivationStats", "HookSite", "Intervention", "activation_stats", "measure", "measure_all",
    "measure_until",
]  # fmt: skip
