"""Examine on one batch whether an SAE was loaded correctly, and which variant fits better."""

from sae_guard.examination.examine import examine

__all__ = ["examine"]
