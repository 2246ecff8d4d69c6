"""(model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.activation_stats import Seen, look
from sae_guard.engine.intervention import Place
from sae_guard.engine.measure import Patch, measure, measure_all, measure_until

__all__ = ["Patch", "Place", "Seen", "look", "measure", "measure_all", "measure_until"]
