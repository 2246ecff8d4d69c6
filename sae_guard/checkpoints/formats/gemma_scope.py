"""Gemma Scope: ``params.npz`` with JumpReLU SAEs on raw activations, no pre-bias.

Lieberum et al. 2024, arXiv:2408.05147. The training's normalisation is folded into the weights.
Only the path distinguishes SAEs, transcoders and SAEs on token embeddings.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sae_guard.checkpoints.assemble import ForwardSettings, assemble
from sae_guard.checkpoints.declarations import Declaration, components, last_match
from sae_guard.checkpoints.format import FolderLayout, Format, Opened
from sae_guard.checkpoints.options import SaeOptions

if TYPE_CHECKING:
    from torch import Tensor

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


_REPOSITORY = r"gemma-scope-([^-]+)-(pt|it)-(res|mlp|att|transcoders)(?:-canonical)?"
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


class Names(NamedTuple):
    """Model, hook points and kind of an SAE, as the names of its folders state them."""

    declaration: Declaration
    transcoder: bool = False
    embedding: bool = False


def names_of(weights: Path) -> Names:
    """Read ``gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz``."""
    folders = components(weights)
    at, repository = last_match(_REPOSITORY, folders)
    embedding = any(
        name == "embedding" and child.startswith("width_") for name, child in pairwise(folders)
    )
    if repository is None:
        return Names(Declaration(hook="hook_embed" if embedding else None), embedding=embedding)
    size, tuned, site = repository.groups()
    model = f"gemma-2-{size}{'-it' if tuned == 'it' else ''}"
    if embedding:
        return Names(Declaration(model, "hook_embed"), embedding=True)
    _, layer = last_match(r"layer_(\d+)", folders[at:])
    block = f"blocks.{layer[1]}" if layer else None
    if site == "transcoders":
        out = f"{block}.hook_mlp_out" if block else None
        return Names(Declaration(model, hook_out=out), transcoder=True)
    return Names(Declaration(model, f"{block}.{_SITES[site]}" if block else None))


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE or transcoder of a ``params.npz``.

    The scale of embedding SAEs is that of SAELens, `gemma_2_sae_huggingface_loader` in
    https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py.

    Raises:
        LoadError: The file does not have the arrays of a JumpReLU SAE.
    """
    names = names_of(opened.weights)
    tensors = {_KEYS.get(name, name): tensor for name, tensor in opened.tensors.items()}
    kind, scale = "transcoder" if names.transcoder else "SAE", 1.0
    if names.embedding:
        kind, scale = "embedding", _sqrt_d(tensors)
        if "W_dec" in tensors:
            tensors["latent_scale"] = tensors["W_dec"].new_full(tensors["W_dec"].shape[:1], scale)
    settings = ForwardSettings(
        "jumprelu", pre_bias=False, scale_in=1 / scale, transcoder=names.transcoder
    )
    source = opened.source("Gemma Scope", _FOLDED, _KINDS[kind], declaration=names.declaration)
    return assemble(tensors, settings, source, opened.weights)


def _sqrt_d(tensors: dict[str, Tensor]) -> float:
    """Return sqrt(d_in); 1 without a b_dec, which `assemble` refuses later."""
    b_dec = tensors.get("b_dec")
    return math.sqrt(len(b_dec)) if b_dec is not None and b_dec.ndim == 1 and len(b_dec) else 1.0


FORMAT = Format(
    name="Gemma Scope",
    recognised_by="`params.npz`, or any `.npz`",
    holds="jumprelu SAEs; transcoders and SAEs on token embeddings, by the path "
    "(`gemma-scope-2b-pt-transcoders/…`, `…/embedding/width_…`)",
    folders=(FolderLayout(None, "params.npz", rank=1),),
    declare=lambda files: (
        names_of(files.weights).declaration if files.weights.suffix == ".npz" else None
    ),
    matches=lambda opened: opened.weights.suffix == ".npz",
    read=read,
)
