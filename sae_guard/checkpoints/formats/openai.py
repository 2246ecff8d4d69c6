"""OpenAI: a state dict with ``pre_bias`` and ``latent_bias`` that names its own activation.

https://github.com/openai/sparse_autoencoder, `model.py`. Its TopK SAEs normalise their input as a
layer norm does, its ReLU SAEs do not; the file does not say so, the code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_NAMES = {
    "pre_bias": "b_dec",
    "latent_bias": "b_enc",
    "encoder.weight": "W_enc",
    "decoder.weight": "W_dec",
}
_TIED = "decoder.linear.weight"  # the encoder's own, [d_sae, d_in]
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_ACTIVATION = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of an OpenAI ``N.pt``.

    Raises:
        LoadError: The activation is none of ReLU and TopK, or TopK has no k or applies something
            but ReLU, or it is a file of the training, which says less.
    """
    entries = dict(opened.entries)
    _check_released(entries, options, opened)
    facts = _facts(entries, opened)
    check_agreement(facts, options, opened.weights)
    others = {
        name: value for name, value in entries.items() if name not in (*_STATISTICS, *_ACTIVATION)
    }
    strange = sorted(name for name, value in others.items() if not isinstance(value, Tensor))
    if strange:
        raise LoadError(f"{opened.weights}: not understood: {', '.join(strange)}")
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("OpenAI", _assumption(facts), **said)
    return assemble(_canonical(others, opened), facts, source, opened.weights)


def _check_released(entries: Mapping[str, Any], options: SaeOptions, opened: Opened) -> None:
    """`train.py` saves neither the activation, nor its k, nor how inputs were normalised."""
    if "activation" in entries or set(_STATISTICS[1:]) & entries.keys():
        return
    if options.architecture != "standard":
        raise LoadError(
            f"{opened.weights} holds neither an activation nor the statistics of latents that "
            "released files have; decide in the spec:\n  sae.architecture: standard (ReLU, the "
            "input is not normalised); files that `train.py` saved, TopK on inputs normalised "
            "beforehand, are not read",
            "activation",
            options=("architecture",),
        )


def _canonical(tensors: dict[str, Any], opened: Opened) -> dict[str, Tensor]:
    tied = tensors.pop(_TIED, None)
    canonical = renamed(tensors, _NAMES)
    if tied is None:
        return canonical
    encoder = tensors.get("encoder.weight")
    if "W_dec" in canonical or encoder is None or not torch.equal(tied, encoder):
        raise LoadError(
            f"{opened.weights}: {_TIED} is not the encoder.weight it is tied to", "keys"
        )
    return {**canonical, "W_dec": tied}


def _facts(entries: dict[str, Any], opened: Opened) -> Facts:
    activation = entries.get("activation", "ReLU")  # the files of v1 do not say it
    if activation == "ReLU":
        return Facts("standard", None, pre_bias=True, normalize="none")
    state = entries.get("activation_state_dict", {})
    k = entries.get("activation.k", state.get("k") if isinstance(state, dict) else None)
    after = entries.get(
        "activation.postact_fn", state.get("postact_fn") if isinstance(state, dict) else None
    )
    if activation != "TopK" or type(k) is not int or after not in (None, "ReLU"):
        raise LoadError(
            f"{opened.weights}: activation is {activation!r} with k {k!r} and {after!r}, allowed: "
            "'ReLU', or 'TopK' with a whole number and 'ReLU'"
        )
    return Facts("topk", k, pre_bias=True, normalize="layer_norm")


def _assumption(facts: Facts) -> str:
    applied = "normalised as by a layer norm" if facts.architecture == "topk" else "not normalised"
    return f"the input is {applied}, as OpenAI's code does with this activation"


FAMILY = Family(
    "OpenAI",
    recognised_by="the keys `pre_bias` and `latent_bias`",
    holds="standard SAEs, and topk SAEs with layer_norm",
    matches=lambda opened: {"pre_bias", "latent_bias"} <= opened.entries.keys(),
    read=read,
)
