"""A bare state dict in a ``.pt`` or ``.safetensors`` file, under one of two sets of names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, oriented, renamed
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.formats import neel
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.errors import LoadError, Option

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

LINEAR = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
}


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of ``W_enc, W_dec, b_enc, b_dec`` or ``encoder.weight, decoder.weight, …``.

    Such a file does not state its activation family, whether b_dec is subtracted from the input,
    or how the input is normalised. Files with the same names differ in all three, so the options
    must state them. The orientation of the matrices follows from the sizes of the biases.

    Raises:
        LoadError: An option is missing or contradicts the tensors, or the tensors do not fit.
    """
    tensors, notes = oriented(_canonical(opened.tensors))
    settings = _settings(tensors, options, opened.path)
    return assemble(tensors, settings, opened.source("plain state dict", *notes), opened.weights)


def _canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not {"encoder.weight", "decoder.weight"} <= tensors.keys():
        return dict(tensors)
    return renamed(tensors, LINEAR)


def _settings(tensors: Mapping[str, Tensor], options: SaeOptions, path: Path) -> ForwardSettings:
    candidates = _candidates(tensors)
    architecture = options.architecture or (candidates[0] if len(candidates) == 1 else None)
    if architecture is not None and architecture not in candidates:
        raise LoadError(
            f"{path}: the tensors ({', '.join(sorted(tensors))}) are those of a "
            f"{' or '.join(candidates)} SAE, the `sae` options say {architecture!r}; allowed: "
            f"{', '.join(candidates)}",
            "activation",
            options=("architecture",),
        )
    if options.scale == "stored":
        raise LoadError(
            f"{path}: the `sae` options say scale: stored, but a bare state dict stores none; "
            "allowed: a number, or folded where the weights include it",
            "scale",
            options=("scale",),
        )
    undecided: dict[Option, tuple[object, str]] = {
        "architecture": (architecture, " or ".join(candidates)),
        "pre_bias": (options.pre_bias, "true (b_dec is subtracted from the input) or false"),
        "normalize": (options.normalize, "none, constant_norm_rescale or layer_norm"),
    }
    if architecture in ("topk", "abstopk", "groupmax"):
        undecided["k"] = (options.k, "a whole number")
    missing = {key: choices for key, (value, choices) in undecided.items() if value is None}
    if missing or architecture is None or options.pre_bias is None or options.normalize is None:
        raise ambiguous(f"{path} is ambiguous", "activation", *missing.items())
    scale = options.scale if isinstance(options.scale, float) else 1.0
    return ForwardSettings(
        architecture,
        options.k,
        pre_bias=options.pre_bias,
        normalize=options.normalize,
        scale_in=scale,
        scale_out=scale,
    )


def _candidates(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the activation families that the tensors allow."""
    if "threshold" in tensors:
        return ("jumprelu",)
    if {"b_gate", "b_mag", "r_mag"} & tensors.keys():
        return ("gated",)
    return ("standard", "topk", "tanh_relu", "abstopk", "groupmax")


FORMAT = Format(
    name="plain state dict",
    recognised_by="`W_enc`, `W_dec`, `b_enc`, `b_dec` (and `threshold`, or `b_gate`, `b_mag`, "
    "`r_mag`), or `encoder.weight`, `encoder.bias`, `decoder.weight`, `decoder.bias`",
    holds="SAEs of every architecture; needs the options architecture, pre_bias and normalize "
    "(and k or scale, where they apply)",
    declare=neel.names_in_config,  # the keys that unknown libraries are most likely to use
    matches=lambda opened: True,  # the last format: it refuses unknown tensors by their names
    read=read,
)
