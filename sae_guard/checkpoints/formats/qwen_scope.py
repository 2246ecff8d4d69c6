"""Qwen Scope: ``layerN.sae.pt`` with TopK SAEs, whose k stands only in the repository's name.

SAELens, `qwen_scope_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py. The
names are those of SAELens and the matrices lie the other way round; no pre-bias.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, oriented
from sae_guard.checkpoints.declarations import Declaration, components, last_match
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_ASSUMED = "TopK, and b_dec is not taken off the input, as SAELens reads files of this name"


class Names(NamedTuple):
    """What the file and its folders say."""

    declaration: Declaration
    k: int | None = None


def names_of(weights: Path) -> Names | None:
    """Read ``SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer3.sae.pt``; k stands only in the folder."""
    layer = re.fullmatch(r"layer(\d+)\.sae\.pt", weights.name)
    if layer is None:
        return None
    _, repository = last_match(r"SAE-([^-]+)-(.+)-W\d+K-L0_(\d+)", components(weights))
    if repository is None:
        return Names(Declaration())
    hook = f"blocks.{layer[1]}.hook_resid_post" if repository[1] == "Res" else None
    return Names(Declaration(repository[2], hook), int(repository[3]))


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read model and layer off the names of the file and its folder."""
    names = names_of(files.weights)
    return None if names is None else names.declaration


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a ``layerN.sae.pt``.

    Raises:
        LoadError: Neither the path nor the options say k, or they contradict each other, or the
            tensors do not fit.
    """
    names = names_of(opened.weights) or Names(Declaration())
    k = names.k if names.k is not None else options.k
    if k is None:
        raise LoadError(
            f"{opened.path} is ambiguous; decide in the spec:\n  sae.k: a whole number (the L0 in "
            "the name of the repository, as 50 in SAE-Res-…-W32K-L0_50)",
            "activation",
            options=("k",),
        )
    facts = Facts("topk", k, pre_bias=False, normalize="none")
    check_agreement(facts, options, opened.weights)
    tensors, notes = oriented(opened.tensors, transposed=("W_enc", "W_dec"))
    source = opened.source("Qwen Scope", _ASSUMED, *notes, declaration=names.declaration)
    return assemble(tensors, facts, source, opened.weights)


FORMAT = Format(
    name="Qwen Scope",
    recognised_by="`layerN.sae.pt`",
    holds="topk SAEs; k is read off a folder that is called as the repository (`…-L0_50`), or has "
    "to be said",
    declare=declare,
    matches=lambda opened: names_of(opened.weights) is not None,
    read=read,
)
