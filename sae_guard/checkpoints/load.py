"""A checkpoint → its SAE: the first format that recognises the files reads or refuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sae_guard.checkpoints.assemble import check_agreement
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
        options: Facts that the checkpoint does not state; they must not contradict it.
        name: Name of the SAE in a file that holds several.
        device: Device of the loaded weights.

    Raises:
        LoadError: The checkpoint is unreadable, ambiguous, contradicts the options, or is of an
            unknown format.
    """
    opened = open_checkpoint(Path(path), name)
    # The last format matches everything.
    format = next(format for format in FORMATS if format.matches(opened))
    if name is not None and not format.several:
        raise LoadError(
            f"{path}#{name}: a {format.name} checkpoint holds one SAE, without a name; remove "
            f"#{name}"
        )
    options = options or NOTHING_SAID
    sae = format.read(opened, options)
    check_agreement(sae, options, opened.config_file or opened.weights)
    return sae.to(device)


def load_checkpoint(
    checkpoint: Checkpoint, options: SaeOptions, *, device: str | torch.device = "cpu"
) -> SAE:
    """Load the SAE of a resolved reference; raises like `load`."""
    sae = load(checkpoint.path, options, name=checkpoint.name, device=device)
    if checkpoint.origin is None:
        return sae
    return replace(sae, source=replace(sae.source, path=str(checkpoint)))


def open_checkpoint(path: Path, name: str | None = None) -> Opened:
    """Read the files at ``path``; raises `LoadError`."""
    files = files_at(path, name)
    if files is None:
        names = ", ".join(format.name for format in FORMATS if not format.refused)
        raise LoadError(f"{path}: {_unrecognised(path)}; formats that are read: {names}")
    return Opened(**vars(files), entries=read_entries(files.weights))


def _unrecognised(path: Path) -> str:
    """Describe a path that is no checkpoint of any known format."""
    if not path.exists():
        return "no such checkpoint"
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        shards = [name for name in (path.name, *names) if name.endswith(".dcp")]
        if shards:
            return f"{shards[0]} is in shards of torch.distributed.checkpoint; save it as one file"
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"no known checkpoint: a folder with {listed or 'nothing in it'}"
    return f"a file with the suffix {path.suffix!r}, expected {', '.join(SUFFIXES)}"
