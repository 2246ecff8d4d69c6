"""The SAE and its forward pass, a faster one for many tokens, and controls to compare it with."""

from sae_guard.sae.autoencoder import SAE, DecoderNorm, Normalize, SaeOutput, SaeSource

__all__ = ["SAE", "DecoderNorm", "Normalize", "SaeOutput", "SaeSource"]
