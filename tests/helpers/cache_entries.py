"""Make entries of a cache, and find their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sae_guard.cache import Cache, Entry

KEY = "0123456789abcdef"
DESCRIPTION = {"model": {"name": "gpt2"}, "corpus": {"n_sequences": 2}}
TENSORS = {"x": torch.arange(6).view(2, 3), "y": torch.tensor([True, False])}


def make_entry(root: Path, number: int = 0, limit: int = 2**40) -> Entry:
    """Make the entry of this number."""
    return Cache(root, limit).entry(f"{number:016x}", DESCRIPTION)


@contextmanager
def new_entry() -> Iterator[Entry]:
    """Make an entry for one example of Hypothesis."""
    with TemporaryDirectory() as folder:
        yield make_entry(Path(folder) / "cache")


def content(entry: Entry, name: str) -> Path:
    """Find where the file lies."""
    return entry.folder / "files" / f"{name}.safetensors"
