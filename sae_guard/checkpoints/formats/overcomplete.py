"""overcomplete: an encoder and a dictionary, as a state dict or as a pickled module.

https://github.com/KempnerInstitute/overcomplete, `sae/`. There is no bias on the input, and none on
the output. The dictionary is computed from its weights as ``.eval()`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings, assemble
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.formats import overcomplete_module
from sae_guard.checkpoints.formats.overcomplete_module import Module, matrix
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.errors import LoadError, Option

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_ENCODERS = ("encoder.final_block.0.", "encoder.")
"""Prefixes of the default encoder, and of the one of `untied()`."""
_ANY_DICTIONARY = ("dictionary._weights", "dictionary.Relax")
_OF_DICTIONARIES = {f"dictionary.{name}" for name in ("_weights", "multiplier", "W", "C", "Relax")}
_UNSUPPORTED = {
    "Q": "its codes are quantised (QSAE)",
    "encoder.mlp_blocks": "its encoder has hidden layers",
    "encoder.final_block.1": "its encoder has a batch norm or layer norm (mlp_bn, mlp_ln)",
    "encoder.resnet_blocks": "its encoder is a ResNet",
    "encoder.attention_blocks": "its encoder mixes positions",
}


def matches(opened: Opened) -> bool:
    """Recognise the format by the class of a module, or by the keys of a dictionary."""
    inert = opened.entries.get("__record__")
    if isinstance(inert, InertObject):
        return overcomplete_module.is_module(inert)
    return any(name in opened.entries for name in _ANY_DICTIONARY)


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a state dict, or of a pickled module.

    The latents are relu(x · encoderᵀ + bias), of which TopK keeps the top_k largest and JumpReLU
    those at or above a threshold. The reconstruction is latents · dictionary.

    Raises:
        LoadError: The options do not state what a state dict lacks, the latents depend on the
            batch, or the encoder or the class is not supported.
    """
    from sae_guard.checkpoints.tensor_files import float32

    path = opened.weights
    inert = opened.entries.get("__record__")
    module = (
        overcomplete_module.read_module(inert, path) if isinstance(inert, InertObject) else None
    )
    if module is not None:
        opened = replace(opened, entries=module.tensors)
    for prefix, reason in _UNSUPPORTED.items():
        if any(f"{name}.".startswith(f"{prefix}.") for name in opened.entries):
            raise LoadError(f"{path}: not read: {reason}; allowed: a linear encoder", "keys")
    tensors = float32(opened.tensors, path)
    settings = _settings(tensors, module, options, path)
    dictionary = overcomplete_module.compute(tensors, module, path)
    canonical = _canonical(tensors, dictionary.rows, path)
    if module is not None and module.threshold is not None:
        canonical["threshold"] = dictionary.rows.new_full((len(dictionary.rows),), module.threshold)
    elif settings.architecture == "jumprelu" and "thresholds" in canonical:
        canonical["threshold"] = canonical.pop("thresholds").exp()
    assumed = dictionary.assumed
    if module is not None and module.name == "BatchTopKSAE":
        assumed += ("latents are those of evaluation mode, with its running_threshold",)
    if module is None:
        assumed += ("codes are relu of the encoder, as in overcomplete by default",)
    return assemble(canonical, settings, opened.source("overcomplete", *assumed), path)


def _settings(
    tensors: Mapping[str, Tensor], module: Module | None, options: SaeOptions, path: Path
) -> ForwardSettings:
    if module is not None:
        architecture, k = overcomplete_module.CLASSES[module.name], module.k
    elif "thresholds" in tensors:
        architecture, k = "jumprelu", None
    else:
        architecture, k = _architecture(options, path)
    return ForwardSettings(architecture, k, pre_bias=False, inclusive=architecture == "jumprelu")


def _architecture(options: SaeOptions, path: Path) -> tuple[str, int | None]:
    """Return architecture and k by the options: the keys of SAE, TopKSAE, BatchTopKSAE agree."""
    architecture = options.architecture
    if architecture == "jumprelu":
        raise LoadError(
            f"{path}: no thresholds: the state dict of a BatchTopKSAE lacks its running_threshold, "
            "without which latents depend on the rest of their batch; save the whole module",
            "batch_mates",
        )
    if architecture == "standard" or (architecture == "topk" and options.k is not None):
        return architecture, options.k
    if architecture not in (None, "topk"):
        raise LoadError(
            f"{path}: the `sae` options say architecture {architecture!r}, allowed: standard or "
            "topk",
            "activation",
            options=("architecture",),
        )
    choices: dict[Option, str] = {}
    if architecture is None:
        choices["architecture"] = "standard (SAE) or topk (TopKSAE)"
    if options.k is None:
        choices["k"] = "a whole number (overcomplete's default is a tenth of the latents)"
    raise ambiguous(f"{path} is ambiguous", "activation", *choices.items())


def _canonical(tensors: Mapping[str, Tensor], rows: Tensor, path: Path) -> dict[str, Tensor]:
    """Return W_enc, W_dec, b_enc and b_dec, and unknown tensors, which `assemble` refuses."""
    remaining = {name: tensor for name, tensor in tensors.items() if name not in _OF_DICTIONARIES}
    canonical = {"W_dec": rows, "b_dec": rows.new_zeros(rows.shape[1])}
    tied = [name for name in remaining if name.startswith("encoder.tied_to.")]
    for name in tied:
        decoder_tensor = tensors.get(name.replace("encoder.tied_to.", "dictionary."))
        if decoder_tensor is None or not remaining.pop(name).equal(decoder_tensor):
            raise LoadError(
                f"{path}: {name} differs from the dictionary of the decoder; allowed: a copy of it",
                "keys",
            )
    own = [prefix for prefix in _ENCODERS if f"{prefix}weight" in remaining]
    if not tied and not own:
        raise LoadError(
            f"{path}: a dictionary without an encoder is not read (MpSAE and OMPSAE encode by "
            "matching pursuit on the dictionary)",
            "keys",
        )
    prefix = "encoder." if tied else own[0]
    W_enc = rows if tied else matrix(remaining, f"{prefix}weight", path)
    canonical["W_enc"] = W_enc.T.contiguous()
    if prefix == "encoder.":  # the encoders of tied() and untied() have no bias by default
        canonical["b_enc"] = rows.new_zeros(len(rows))
    if f"{prefix}bias" in remaining:
        canonical["b_enc"] = remaining[f"{prefix}bias"]
    used = {f"{prefix}bias", *([] if tied else [f"{prefix}weight"])}
    return canonical | {name: tensor for name, tensor in remaining.items() if name not in used}


FORMAT = Format(
    name="overcomplete",
    recognised_by="a pickled module of `overcomplete.sae`, or the keys `dictionary._weights` or "
    "`dictionary.Relax`",
    holds="SAE, TopKSAE, JumpSAE, RATopKSAE and RAJumpSAE with linear encoders; BatchTopKSAE "
    "only as a module; a state dict without thresholds needs the option architecture (and k)",
    matches=matches,
    read=read,
)
