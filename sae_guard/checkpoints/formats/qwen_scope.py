"""Qwen Scope: ``layerN.sae.pt`` with TopK SAEs, whose k stands only in the repository's name.

SAELens, `qwen_scope_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py. The
names are those of SAELens and the matrices lie the other way round; no pre-bias.
"""

from __future__ import annotations

from sae_guard.checkpoints import released
from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, oriented
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_ASSUMED = "TopK, and b_dec is not taken off the input, as SAELens reads files of this name"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a ``layerN.sae.pt``.

    Raises:
        LoadError: Neither the path nor the options say k, or they contradict each other, or the
            tensors do not fit.
    """
    release = released.qwen_scope(opened.weights) or released.Release()
    k = release.k if release.k is not None else options.k
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
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("Qwen Scope", _ASSUMED, *notes, **said)
    return assemble(tensors, facts, source, opened.weights)


FAMILY = Family(
    "Qwen Scope",
    recognised_by="`layerN.sae.pt`",
    holds="topk SAEs; k is read off a folder that is called as the repository (`…-L0_50`), or has "
    "to be said",
    matches=lambda opened: released.qwen_scope(opened.weights) is not None,
    read=read,
)
