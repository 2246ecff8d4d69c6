"""(model, SAE, corpus, place) → `Examination`: one batch, and what else would fit it."""

from sae_guard.examination.examine import examine

__all__ = ["examine"]
