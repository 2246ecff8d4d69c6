"""The language model on a TransformerLens bridge: clean runs, patched runs, runs of some blocks."""

from sae_guard.model.language_model import FINAL_HIDDEN, Activation, Edit, LanguageModel, Processing
from sae_guard.model.loading import DeviceMap, load_model
from sae_guard.model.suffix import Suffix
from sae_guard.model.unembedding import Unembedding

__all__ = [
    "FINAL_HIDDEN", "Activation", "DeviceMap", "Edit", "LanguageModel", "Processing", "Suffix",
    "Unembedding", "load_model",
]  # fmt: skip
