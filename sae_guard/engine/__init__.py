"""(model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.measuring import Patch, measure, measure_all
from sae_guard.engine.place import Place

__all__ = ["Patch", "Place", "measure", "measure_all"]
