"""Bussmann's BatchTopK and Matryoshka repositories: ``sae.pt`` beside ``config.json``.

https://github.com/bartbussmann/BatchTopK and https://github.com/bartbussmann/matryoshka_sae,
`sae.py`. Inputs are normalised to mean 0 and standard deviation 1 if `input_unit_norm` is true.
TopK SAEs store an encoder bias and do not use it. The config has the keys of Neel Nanda's for model
and hook point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, check_sizes, oriented
from sae_guard.checkpoints.format import FolderLayout, Format, Opened
from sae_guard.checkpoints.formats import neel
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_TYPES = {
    "vanilla": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batch-topk": "jumprelu",
    "global-matryoshka-topk": "jumprelu",
}
_WITH_THRESHOLD = ("batch-topk", "global-matryoshka-topk")
"""Types of the Matryoshka repository: BatchTopK in training, then one threshold for all latents."""
_EARLY_FIELDS = {"use_encoder_bias": False, "tied_weights": False, "activation": "relu"}
"""Config fields of the repository's first weeks, and the values that change nothing."""


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a ``sae.pt``.

    Raises:
        LoadError: The SAE is a BatchTopK SAE without a threshold, of an unknown type, or of an
            early version of the repository with another forward pass.
    """
    config, path = opened.config or {}, opened.config_file or opened.path
    tensors = opened.tensors
    kind = _kind(config, tensors, path)
    settings = _settings(kind, config, path)
    if kind not in ("vanilla", "jumprelu") and "b_enc" in tensors:
        tensors["b_enc"] = tensors["b_enc"].new_zeros(tensors["b_enc"].shape)
    if "jumprelu.log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("jumprelu.log_threshold").exp()
    if kind in _WITH_THRESHOLD and tensors["threshold"].ndim == 0 and "b_enc" in tensors:
        tensors["threshold"] = tensors["threshold"].expand(tensors["b_enc"].shape)
    matrices, notes = oriented(tensors)
    declaration = neel.names_in_config(opened)
    source = opened.source("Bussmann", *_assumed(kind), *notes, declaration=declaration)
    sae = assemble(matrices, settings, source, opened.weights)
    check_sizes(config, {"act_size": sae.d_in, "dict_size": sae.d_sae}, path)
    return sae


def _kind(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> str:
    kind = config.get("sae_type")
    if kind == "batchtopk" and {"threshold", "aux_threshold"} & tensors.keys():
        raise LoadError(
            f"{path}: sae_type is 'batchtopk' with a stored threshold, which only an unmerged "
            "branch of the repository writes, with an unknown forward pass; allowed: "
            f"{', '.join(_TYPES)}",
            "batch_mates",
        )
    if kind == "batchtopk" or (kind in _WITH_THRESHOLD and "threshold" not in tensors):
        raise LoadError(
            f"{path}: sae_type is {kind!r} without a stored threshold: the latents of a token "
            "depend on its batch, so no measurement of them is meaningful; allowed: "
            f"{', '.join(_WITH_THRESHOLD)} with a threshold",
            "batch_mates",
        )
    if not isinstance(kind, str) or kind not in _TYPES:
        raise LoadError(f"{path}: sae_type is {kind!r}, allowed: {', '.join(_TYPES)}", "activation")
    for name, neutral in _EARLY_FIELDS.items():
        if config.get(name, neutral) != neutral:
            raise LoadError(
                f"{path}: {name} is {config[name]!r}, allowed: {neutral!r}; other values are of "
                "early versions of BatchTopK's repository, whose forward pass is not supported",
                "activation",
            )
    return kind


def _settings(kind: str, config: Mapping[str, Any], path: Path) -> ForwardSettings:
    normalised, k = config.get("input_unit_norm"), config.get("top_k")
    if not isinstance(normalised, bool):
        raise LoadError(f"{path}: input_unit_norm is {normalised!r}, expected true or false")
    early = sorted(_EARLY_FIELDS.keys() & config.keys())
    if normalised and early:
        # In that code sae_out adds the normalised input instead of its mean.
        raise LoadError(
            f"{path}: input_unit_norm is true with {', '.join(early)}, allowed: false (the early "
            "code of the repository did not undo the normalisation)",
            "scale",
        )
    if kind == "topk" and type(k) is not int:
        raise LoadError(f"{path}: top_k is {k!r}, expected a whole number", "activation")
    return ForwardSettings(
        _TYPES[kind],
        k if kind == "topk" else None,
        pre_bias=kind != "jumprelu",
        normalize="layer_norm" if normalised else "none",
    )


def _assumed(kind: str) -> tuple[str, ...]:
    if kind == "jumprelu":
        return ("b_dec is not taken off the input, as the repository does with JumpReLU",)
    if kind not in _WITH_THRESHOLD:
        return ("b_dec is taken off the input",)
    evaluated = "latents above the stored threshold are kept, as the repository does in evaluation"
    every = ("all groups of latents are active",) if kind == "global-matryoshka-topk" else ()
    return ("b_dec is taken off the input", evaluated, *every)


FORMAT = Format(
    name="Bussmann",
    recognised_by="a folder with `config.json` (`sae_type`) and `sae.pt`",
    holds="vanilla, topk and jumprelu SAEs, and the batch-topk and global-matryoshka-topk SAEs "
    "that store a threshold (as jumprelu); not batchtopk, which depends on the batch",
    folders=(FolderLayout("config.json", "sae.pt"),),
    declare=lambda files: neel.names_in_config(files) if files.weights.name == "sae.pt" else None,
    matches=lambda opened: "sae_type" in (opened.config or {}),
    read=read,
)
