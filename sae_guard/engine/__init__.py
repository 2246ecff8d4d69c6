"""(model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.measuring import Patch, measure, measure_all
from sae_guard.engine.place import Place
from sae_guard.engine.seen import Seen, look
from sae_guard.engine.streaming import measure_until

__all__ = ["Patch", "Place", "Seen", "look", "measure", "measure_all", "measure_until"]
