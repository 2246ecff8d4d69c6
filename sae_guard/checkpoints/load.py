"""The recogniser: which module reads a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_guard.checkpoints import plain, saelens
from sae_guard.checkpoints.locate import CONFIG, SUFFIXES, WEIGHTS, is_saelens
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

READ_SO_FAR = (
    f"a SAELens 6 folder ({CONFIG} and {WEIGHTS}) or a state dict in a {', '.join(SUFFIXES)} file"
)


def load(
    path: str | Path,
    options: SaeOptions | None = None,
    *,
    device: str | torch.device = "cpu",
) -> SAE:
    """Load a checkpoint exactly, or refuse it.

    Args:
        path: A SAELens 6 folder, or a ``.pt`` or ``.safetensors`` file with a state dict.
        options: What the checkpoint does not say of itself; it may not be contradicted.
        device: Where the weights go.

    Raises:
        LoadError: Unreadable, ambiguous, contradicted, or of a format not read so far.
    """
    path = Path(path)
    options = options or SaeOptions()
    if is_saelens(path):
        return saelens.read(path, options).to(device)
    if path.is_file() and path.suffix in SUFFIXES:
        return plain.read(path, options).to(device)
    raise LoadError(f"{path}: {_what(path)}; read so far: {READ_SO_FAR}")


def _what(path: Path) -> str:
    if not path.exists():
        return "no such checkpoint"
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"a folder with {shown or 'nothing in it'}"
    return f"a file with the suffix {path.suffix!r}"
