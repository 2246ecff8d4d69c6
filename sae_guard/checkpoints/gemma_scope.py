"""Gemma Scope: ``params.npz`` with JumpReLU SAEs on raw activations, no pre-bias.

Lieberum et al. 2024, arXiv:2408.05147. The training's normalisation is folded into the files.
"""

from __future__ import annotations

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_KEYS = {"w_enc": "W_enc", "w_dec": "W_dec"}  # some files spell them in lower case
_ASSUMED = "b_dec is not taken off the input, and the normalisation is folded in, as released"
_NOT_READ = ("transcoders", "embedding")


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a ``params.npz``.

    Raises:
        LoadError: The path says that it is a transcoder or an embedding SAE, or the arrays are not
            those of a JumpReLU SAE.
    """
    for site in _NOT_READ:
        if site in opened.weights.resolve().as_posix():
            raise LoadError(f"{opened.weights}: Gemma Scope {site} are not read yet")
    facts = Facts("jumprelu", None, pre_bias=False, normalize="none")
    check_agreement(facts, options, opened.weights)
    tensors = {_KEYS.get(name, name): tensor for name, tensor in opened.tensors.items()}
    return assemble(tensors, facts, opened.source("Gemma Scope", _ASSUMED), opened.weights)


FAMILY = Family(
    "Gemma Scope",
    recognised_by="`params.npz`, or any `.npz`",
    holds="jumprelu SAEs; not its transcoders and embedding SAEs",
    matches=lambda opened: opened.weights.suffix == ".npz",
    read=read,
)
