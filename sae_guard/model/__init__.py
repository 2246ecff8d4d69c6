"""The TransformerLens bridge: clean runs, runs with a hook point replaced, runs of a part."""

from sae_guard.model.language_model import Activation, Edit, LanguageModel, Processing
from sae_guard.model.loading import load_model
from sae_guard.model.suffix import Clean, Suffix

__all__ = ["Activation", "Clean", "Edit", "LanguageModel", "Processing", "Suffix", "load_model"]
