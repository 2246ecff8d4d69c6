"""(model, SAE, corpus, hook points) → `Measurement`."""

from sae_guard.engine.plain import measure

__all__ = ["measure"]
