"""The recogniser: which family reads a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_guard.checkpoints import (
    bussmann,
    dictionary_learning,
    gemma_scope,
    goodfire,
    mats,
    neel,
    openai,
    plain,
    saelens,
    saelens_before_6,
    sparsify,
)
from sae_guard.checkpoints.family import Opened
from sae_guard.checkpoints.files import read_entries
from sae_guard.checkpoints.locate import SUFFIXES, parts, read_config
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

FAMILIES = (
    saelens.FAMILY,
    saelens_before_6.FAMILY,
    sparsify.FAMILY,
    mats.FAMILY,
    dictionary_learning.FAMILY,
    bussmann.FAMILY,
    neel.FAMILY,
    gemma_scope.FAMILY,
    openai.FAMILY,
    goodfire.FAMILY,
    plain.FAMILY,
)
"""In the order in which they are tried; the first that matches reads or refuses."""


def load(
    path: str | Path,
    options: SaeOptions | None = None,
    *,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> SAE:
    """Load a checkpoint exactly, or refuse it.

    Args:
        path: A folder or a file of one of the `FAMILIES`.
        options: What the checkpoint does not say of itself; it may not be contradicted.
        name: Which SAE, where a file holds several.
        device: Where the weights go.

    Raises:
        LoadError: Unreadable, ambiguous, contradicted, or of a format not read so far.
    """
    opened = open_checkpoint(Path(path), name)
    family = next(family for family in FAMILIES if family.matches(opened))
    if name is not None and not family.several:
        raise LoadError(f"{path}#{name}: a {family.name} checkpoint holds one SAE, without a name")
    return family.read(opened, options or SaeOptions()).to(device)


def open_checkpoint(path: Path, name: str | None = None) -> Opened:
    """Read the files at ``path``; raises `LoadError`."""
    found = parts(path)
    if found is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise LoadError(f"{path}: {_what(path)}; read so far: {names}")
    config = read_config(found.config) if found.config else None
    return Opened(path, found.weights, read_entries(found.weights), found.config, config, name)


def _what(path: Path) -> str:
    if not path.exists():
        return "no such checkpoint"
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"a folder with {shown or 'nothing in it'}"
    return f"a file with the suffix {path.suffix!r}, expected {', '.join(SUFFIXES)}"
