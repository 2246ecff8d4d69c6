"""The recogniser: which family reads a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sae_guard.checkpoints.family import Opened
from sae_guard.checkpoints.formats import (
    aisf,
    bussmann,
    circuit_tracer,
    deepseek,
    dictionary_learning,
    e2e_sae,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    mats,
    neel,
    openai,
    openmoss,
    openmoss_before_2025,
    overcomplete,
    plain,
    qwen_scope,
    refused,
    saelens,
    saelens_before_6,
    sparsify,
)
from sae_guard.checkpoints.locate import SUFFIXES, parts, read_config
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

FAMILIES = (
    *refused.FAMILIES,
    openmoss_before_2025.FAMILY,
    openmoss.FAMILY,
    saelens.FAMILY,
    saelens_before_6.FAMILY,
    sparsify.FAMILY,
    aisf.FAMILY,
    e2e_sae.FAMILY,
    overcomplete.FAMILY,
    mats.FAMILY,
    dictionary_learning.FAMILY,
    bussmann.FAMILY,
    neel.FAMILY,
    gemma_scope.FAMILY,
    gemma_scope_2.FAMILY,
    qwen_scope.FAMILY,
    circuit_tracer.FAMILY,
    deepseek.FAMILY,
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
    return family.read(opened, options or NOTHING_SAID).to(device)


def load_checkpoint(
    checkpoint: Checkpoint, options: SaeOptions, *, device: str | torch.device = "cpu"
) -> SAE:
    """The SAE of a resolved reference; raises like `load`."""
    sae = load(checkpoint.path, options, name=checkpoint.name, device=device)
    if checkpoint.origin is None:
        return sae
    return replace(sae, source=replace(sae.source, path=str(checkpoint)))


def open_checkpoint(path: Path, name: str | None = None) -> Opened:
    """Read the files at ``path``; raises `LoadError`."""
    found = parts(path)
    if found is None:
        names = ", ".join(f.name for f in FAMILIES if f not in refused.FAMILIES)
        raise LoadError(f"{path}: {_what(path)}; read so far: {names}")
    config = read_config(found.config) if found.config else None
    return Opened(path, found.weights, read_entries(found.weights), found.config, config, name)


def _what(path: Path) -> str:
    if not path.exists():
        return "no such checkpoint"
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        shards = [name for name in (path.name, *names) if name.endswith(".dcp")]
        if shards:
            return f"{shards[0]} is in shards of torch.distributed.checkpoint; save it as one file"
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"a folder with {shown or 'nothing in it'}"
    return f"a file with the suffix {path.suffix!r}, expected {', '.join(SUFFIXES)}"
