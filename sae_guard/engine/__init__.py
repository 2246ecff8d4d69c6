"""(model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.measuring import measure
from sae_guard.engine.place import Place

__all__ = ["Place", "measure"]
