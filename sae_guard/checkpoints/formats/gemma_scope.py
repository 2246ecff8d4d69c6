"""Gemma Scope: ``params.npz`` with JumpReLU SAEs on raw activations, no pre-bias.

Lieberum et al. 2024, arXiv:2408.05147. The training's normalisation is folded into the files, and
their path is the only thing that tells SAEs, transcoders and SAEs on token embeddings apart.
"""

from __future__ import annotations

import math

from torch import Tensor

from sae_guard.checkpoints import released
from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.sae import SAE

_KEYS = {"w_enc": "W_enc", "w_dec": "W_dec"}  # some files spell them in lower case
_FOLDED = "b_dec is not taken off the input, and the normalisation is folded in, as released"
_KINDS = {
    "transcoder": "a transcoder of the MLP, by the name of its repository",
    "embedding": (
        "on token embeddings without Gemma's factor of sqrt(d_in), which hook_embed has: the input "
        "is divided and latents are multiplied by it, b_dec is not, as SAELens does"
    ),
    "SAE": "an SAE and no transcoder, as nothing in the path says otherwise",
}


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE or transcoder of a ``params.npz``.

    The scale of embedding SAEs is that of SAELens, `gemma_2_sae_huggingface_loader` in
    https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py.

    Raises:
        LoadError: The arrays are not those of a JumpReLU SAE.
    """
    release = released.gemma_scope(opened.weights)
    tensors = {_KEYS.get(name, name): tensor for name, tensor in opened.tensors.items()}
    kind, scale = "transcoder" if release.transcoder else "SAE", 1.0
    if release.embedding:
        kind, scale = "embedding", _sqrt_d(tensors)
        if "W_dec" in tensors:
            tensors["latent_scale"] = tensors["W_dec"].new_full(tensors["W_dec"].shape[:1], scale)
    facts = Facts(
        "jumprelu",
        None,
        pre_bias=False,
        normalize="none",
        scale_in=1 / scale,
        transcoder=release.transcoder,
    )
    check_agreement(facts, options, opened.weights)
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("Gemma Scope", _FOLDED, _KINDS[kind], **said)
    return assemble(tensors, facts, source, opened.weights)


def _sqrt_d(tensors: dict[str, Tensor]) -> float:
    """Of the width of the embedding; 1 where there is none, which is refused later."""
    b_dec = tensors.get("b_dec")
    return math.sqrt(len(b_dec)) if b_dec is not None and b_dec.ndim == 1 and len(b_dec) else 1.0


FAMILY = Family(
    "Gemma Scope",
    recognised_by="`params.npz`, or any `.npz`",
    holds="jumprelu SAEs; transcoders and SAEs on token embeddings where the path says it "
    "(`gemma-scope-2b-pt-transcoders/…`, `…/embedding/width_…`)",
    matches=lambda opened: opened.weights.suffix == ".npz",
    read=read,
)
