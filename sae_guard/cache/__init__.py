"""A cache of tensors on disk: bounded, and safe if processes share it or are killed at any time."""

from sae_guard.cache.disk import CacheError
from sae_guard.cache.root import default_root, root_from_option
from sae_guard.cache.store import DEFAULT_BYTES, Cache, Entry, EntryInfo
from sae_guard.cache.tensor_file import Tensors

__all__ = [
    "DEFAULT_BYTES", "Cache", "CacheError", "Entry", "EntryInfo", "Tensors", "default_root",
    "root_from_option",
]  # fmt: skip
