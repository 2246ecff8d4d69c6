"""Tensors by content, on disk: bounded, safe for several processes and for kill -9."""

from sae_guard.cache.disk import CacheError
from sae_guard.cache.root import chosen_root, default_root
from sae_guard.cache.store import DEFAULT_BYTES, Cache, Entry, Stored
from sae_guard.cache.tensor_file import Tensors

__all__ = [
    "DEFAULT_BYTES",
    "Cache",
    "CacheError",
    "Entry",
    "Stored",
    "Tensors",
    "chosen_root",
    "default_root",
]
