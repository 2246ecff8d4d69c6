"""(model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.place import Place
from sae_guard.engine.plain import measure

__all__ = ["Place", "measure"]
