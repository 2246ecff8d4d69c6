"""Bussmann's BatchTopK repository: ``sae.pt`` beside ``config.json``.

https://github.com/bartbussmann/BatchTopK, `sae.py`. Inputs are normalised as by a layer norm unless
`input_unit_norm` is false; TopK SAEs store an encoder bias and do not use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_TYPES = {"vanilla": "standard", "topk": "topk", "jumprelu": "jumprelu"}


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a ``sae.pt``.

    Raises:
        LoadError: It is a BatchTopK SAE, which stores no threshold, or of an unknown type.
    """
    config, path = opened.config or {}, opened.config_file or opened.path
    facts = _facts(config, path)
    check_agreement(facts, options, path)
    tensors = opened.tensors
    if facts.architecture == "topk" and "b_enc" in tensors:
        tensors["b_enc"] = tensors["b_enc"] * 0
    if "jumprelu.log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("jumprelu.log_threshold").exp()
    assumption = (
        "b_dec is taken off the input"
        if facts.pre_bias
        else "b_dec is not taken off the input, as the repository does with JumpReLU by default"
    )
    return assemble(tensors, facts, opened.source("Bussmann", assumption), opened.weights)


def _facts(config: Mapping[str, Any], path: Path) -> Facts:
    kind = config.get("sae_type")
    if kind == "batchtopk":
        raise LoadError(
            f"{path}: sae_type is 'batchtopk': these files hold no threshold, so the latents of a "
            "token depend on its batch, and no number measured on them means anything"
        )
    if kind not in _TYPES:
        raise LoadError(f"{path}: sae_type is {kind!r}, allowed: {', '.join(_TYPES)}")
    normalised, k = config.get("input_unit_norm", True), config.get("top_k")
    if not isinstance(normalised, bool):
        raise LoadError(f"{path}: input_unit_norm is {normalised!r}, expected true or false")
    if kind == "topk" and type(k) is not int:
        raise LoadError(f"{path}: top_k is {k!r}, expected a whole number")
    return Facts(
        _TYPES[kind],
        k if kind == "topk" else None,
        pre_bias=kind != "jumprelu",
        normalize="layer_norm" if normalised else "none",
    )


FAMILY = Family(
    "Bussmann",
    recognised_by="a folder with `config.json` (`sae_type`) and `sae.pt`",
    holds="vanilla, topk and jumprelu SAEs; not batchtopk, which depends on the batch",
    matches=lambda opened: "sae_type" in (opened.config or {}),
    read=read,
)
