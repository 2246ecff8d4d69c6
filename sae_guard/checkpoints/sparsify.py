"""EleutherAI sparsify: ``cfg.json`` beside ``sae.safetensors``, a folder per hook point.

https://github.com/EleutherAI/sparsify, `sparse_coder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}  # W_dec is [d_sae, d_in] already
_ASSUMED = "b_dec is taken off the input, as sparsify does since 2024"
_FIELDS = {
    "activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk",
    "skip_connection", "transcode", "signed", "d_in",
}  # fmt: skip


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a sparsify folder.

    Raises:
        LoadError: It is a transcoder, has a skip connection, or a field that is not understood.
    """
    path, config = opened.config_file, opened.config
    if path is None or config is None:
        raise LoadError(f"{opened.path}: a sparsify folder without its config")
    facts = _facts(config, path)
    check_agreement(facts, options, path)
    tensors = renamed(opened.tensors, _LINEAR)
    sae = assemble(tensors, facts, opened.source("sparsify", _ASSUMED), opened.weights)
    if config.get("d_in", sae.d_in) != sae.d_in:
        raise LoadError(f"{path}: d_in is {config['d_in']!r}, but the weights have d_in {sae.d_in}")
    return sae


def _facts(config: Mapping[str, Any], path: Path) -> Facts:
    unknown = sorted(config.keys() - _FIELDS)
    if unknown:
        raise LoadError(f"{path}: {', '.join(unknown)}: not understood; allowed: {sorted(_FIELDS)}")
    for name in ("transcode", "skip_connection"):
        if config.get(name):
            raise LoadError(f"{path}: {name} is {config[name]!r}: transcoders are not read yet")
    activation, k = config.get("activation", "topk"), config.get("k")
    if activation not in ("topk", "groupmax") or (config.get("signed") and activation != "topk"):
        raise LoadError(f"{path}: activation is {activation!r}, allowed: 'topk' or 'groupmax'")
    if type(k) is not int:
        raise LoadError(f"{path}: k is {k!r}, expected a whole number")
    architecture = "abstopk" if config.get("signed") else str(activation)
    return Facts(architecture, k, pre_bias=True, normalize="none")


FAMILY = Family(
    "sparsify",
    recognised_by="a folder with `cfg.json` and `sae.safetensors`",
    holds="topk (also signed, as abstopk) and groupmax SAEs; not its transcoders",
    matches=lambda opened: (
        opened.weights.name == "sae.safetensors" and opened.config_file is not None
    ),
    read=read,
)
