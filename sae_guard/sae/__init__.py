"""`SAE`: what a sparse autoencoder is, how it is run, and controls to compare it with."""

from sae_guard.sae.autoencoder import SAE, DecoderNorm, Normalize, SaeOutput, SaeSource

__all__ = [
    "SAE",
    "DecoderNorm",
    "Normalize",
    "SaeOutput",
    "SaeSource",
]
