"""Goodfire: a state dict with ``encoder_linear`` and ``decoder_linear``; ReLU, no pre-bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import named_by_layer
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.options import SaeOptions

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_NAMES = {
    "encoder_linear.weight": "W_enc",
    "encoder_linear.bias": "b_enc",
    "decoder_linear.weight": "W_dec",
    "decoder_linear.bias": "b_dec",
}
_ASSUMED = "ReLU, and b_dec is not taken off the input, as released"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a Goodfire ``.pt`` or ``.pth``; raises `LoadError`."""
    settings = ForwardSettings("standard", pre_bias=False)
    source = opened.source("Goodfire", _ASSUMED, declaration=named_by_layer(opened.weights))
    return assemble(renamed(opened.tensors, _NAMES), settings, source, opened.weights)


FORMAT = Format(
    name="Goodfire",
    recognised_by="the key `encoder_linear.weight`",
    holds="standard SAEs",
    declare=lambda files: named_by_layer(files.weights) if files.config is None else None,
    matches=lambda opened: "encoder_linear.weight" in opened.entries,
    read=read,
)
