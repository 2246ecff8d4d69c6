"""Qwen Scope: ``layerN.sae.pt`` with TopK SAEs, whose k is only in the name of the repository.

SAELens, `qwen_scope_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py. The
names are those of SAELens, the matrices are stored transposed; no pre-bias.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, oriented
from sae_guard.checkpoints.declarations import Declaration, components, last_match
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.options import SaeOptions, ambiguous

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_ASSUMED = "TopK, and b_dec is not taken off the input, as SAELens reads files of this name"


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read model and layer from ``SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer3.sae.pt``."""
    layer = re.fullmatch(r"layer(\d+)\.sae\.pt", files.weights.name)
    if layer is None:
        return None
    repository = _repository(files)
    if repository is None:
        return Declaration()
    hook = f"blocks.{layer[1]}.hook_resid_post" if repository[1] == "Res" else None
    return Declaration(repository[2], hook)


def _repository(files: CheckpointFiles) -> re.Match[str] | None:
    """Return the match of site, model and k in the name of a folder."""
    return last_match(r"SAE-([^-]+)-(.+)-W\d+K-L0_(\d+)", components(files.weights))[1]


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a ``layerN.sae.pt``.

    Raises:
        LoadError: Neither the path nor the options state k, they contradict each other, or the
            tensors do not fit.
    """
    repository = _repository(opened)
    k = options.k if repository is None else int(repository[3])
    if k is None:
        choice = (
            "a whole number (the L0 in the name of the repository, as 50 in SAE-Res-…-W32K-L0_50)"
        )
        raise ambiguous(f"{opened.path} is ambiguous", "activation", ("k", choice))
    settings = ForwardSettings("topk", k, pre_bias=False)
    tensors, notes = oriented(opened.tensors, transposed=("W_enc", "W_dec"))
    source = opened.source("Qwen Scope", _ASSUMED, *notes, declaration=declare(opened))
    return assemble(tensors, settings, source, opened.weights)


FORMAT = Format(
    name="Qwen Scope",
    recognised_by="`layerN.sae.pt`",
    holds="topk SAEs; k is read from a folder with the name of the repository (`…-L0_50`), other "
    "paths need the option k",
    declare=declare,
    matches=lambda opened: declare(opened) is not None,
    read=read,
)
