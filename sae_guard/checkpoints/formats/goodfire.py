"""Goodfire: a state dict with ``encoder_linear`` and ``decoder_linear``; ReLU, no pre-bias."""

from __future__ import annotations

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.sae import SAE

_NAMES = {
    "encoder_linear.weight": "W_enc",
    "encoder_linear.bias": "b_enc",
    "decoder_linear.weight": "W_dec",
    "decoder_linear.bias": "b_dec",
}
_ASSUMED = "ReLU, and b_dec is not taken off the input, as released"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a Goodfire ``.pt`` or ``.pth``; raises `LoadError`."""
    facts = Facts("standard", None, pre_bias=False, normalize="none")
    check_agreement(facts, options, opened.weights)
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("Goodfire", _ASSUMED, **said)
    return assemble(renamed(opened.tensors, _NAMES), facts, source, opened.weights)


FAMILY = Family(
    "Goodfire",
    recognised_by="the key `encoder_linear.weight`",
    holds="standard SAEs",
    matches=lambda opened: "encoder_linear.weight" in opened.entries,
    read=read,
)
