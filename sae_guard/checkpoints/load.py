"""A checkpoint → its SAE: the first format that recognises the files reads or refuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sae_guard.checkpoints.format import Opened
from sae_guard.checkpoints.formats import FORMATS
from sae_guard.checkpoints.locate import SUFFIXES, files_at
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.checkpoints.tensor_files import read_entries
from sae_guard.errors import LoadError
from sae_guard.sae import SAE


def load(
    path: str | Path,
    options: SaeOptions | None = None,
    *,
    name: str | None = None,
    device: str | torch.device = "cpu",
) -> SAE:
    """Load a checkpoint exactly, or refuse it.

    Args:
        path: A folder or a file of one of the `FORMATS`.
        options: What the checkpoint does not say of itself; it may not be contradicted.
        name: Which SAE, where a file holds several.
        device: Where the weights go.

    Raises:
        LoadError: Unreadable, ambiguous, contradicted, or of a format not read so far.
    """
    opened = open_checkpoint(Path(path), name)
    format = next(format for format in FORMATS if format.matches(opened))
    if name is not None and not format.several:
        raise LoadError(f"{path}#{name}: a {format.name} checkpoint holds one SAE, without a name")
    return format.read(opened, options or NOTHING_SAID).to(device)


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
    files = files_at(path, name)
    if files is None:
        names = ", ".join(format.name for format in FORMATS if not format.refused)
        raise LoadError(f"{path}: {_what(path)}; read so far: {names}")
    return Opened(**vars(files), entries=read_entries(files.weights))


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
