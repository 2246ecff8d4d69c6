"""Canonical tensor names + what is known of the SAE → `SAE`, or a `LoadError` that says why not.

Which way the matrices of a file lie is found by the sizes of its biases, not by their names alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError, Option

if TYPE_CHECKING:  # what declares hook points imports this module, and imports no torch
    from torch import Tensor

    from sae_guard.sae import SAE, DecoderNorm, Normalize, SaeSource
    from sae_guard.sae.activations import Activation, JumpReLU

_SAME_SCALE = 1e-4
"""Relative difference up to which two scales are one, rounded differently."""


@dataclass(frozen=True)
class Facts:
    """What tells SAEs with the same tensors apart; nothing in here is guessed."""

    architecture: str
    """One of `options.Architecture`."""
    k: int | None
    pre_bias: bool
    """Whether ``b_pre``, or b_dec where there is none, is taken off the input."""
    normalize: Normalize
    denormalize: bool = True
    rescale_by_decoder_norm: DecoderNorm = "none"
    scale_in: float = 1.0
    scale_out: float = 1.0
    inclusive: bool = False
    """Whether a JumpReLU keeps what equals its threshold."""
    transcoder: bool = False


def check_agreement(facts: Facts, options: SaeOptions, path: Path) -> None:
    """Raise `LoadError` where the options contradict what the checkpoint says."""
    names: tuple[Option, ...] = ("architecture", "k", "pre_bias", "normalize")
    for name in names:
        required, stored = getattr(options, name), getattr(facts, name)
        if required is not None and required != stored:
            raise LoadError(
                f"{path} says {name} {stored!r}, the `sae` options say {required!r}",
                "activation",
                options=(name,),
            )
    if isinstance(options.scale, float) and not math.isclose(
        options.scale, facts.scale_in, rel_tol=_SAME_SCALE
    ):
        raise LoadError(
            f"{path} has scale {facts.scale_in:g}, the `sae` options say {options.scale}",
            "scale",
            options=("scale",),
        )


def check_sizes(stated: Mapping[str, Any], sizes: Mapping[str, int], path: Path) -> None:
    """Raise `LoadError` where a config states another size than the weights have.

    Args:
        stated: The config; it need not state each size.
        sizes: The sizes of the weights under the keys of the config.
        path: Where the config is.
    """
    for key, size in sizes.items():
        if stated.get(key, size) != size:
            raise LoadError(
                f"{path}: {key} is {stated[key]!r}, but the weights have {size}", "shapes"
            )


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under canonical names; the matrices of torch.nn.Linear, [out, in], transposed."""
    return {
        names.get(name, name): (
            tensor.T.contiguous() if name.endswith(".weight") and tensor.ndim == 2 else tensor
        )
        for name, tensor in tensors.items()
    }


def assemble(tensors: Mapping[str, Tensor], facts: Facts, source: SaeSource, path: Path) -> SAE:
    """The SAE of ``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``b_enc``, ``b_dec`` and so on.

    ``b_pre`` [d_in], ``latent_scale`` [d_sae] and, in transcoders, ``W_skip`` [d_out, d_in] may be
    among them.

    Raises:
        LoadError: Keys are missing or left over, shapes disagree, a weight is not finite, a
            threshold is the mark of one that was never trained, or k does not fit.
    """
    from sae_guard.checkpoints.tensor_files import check_shapes, float32
    from sae_guard.sae import SAE

    check_shapes(tensors, _shapes(tensors, facts, path), path)
    weights = float32(tensors, path)
    activation = _activation(weights, facts, path)
    b_enc = weights.get("b_enc")
    return SAE(
        weights["W_enc"],
        weights["W_dec"],
        weights["b_mag"].new_zeros(len(weights["b_mag"])) if b_enc is None else b_enc,
        weights["b_dec"],
        activation,
        source,
        b_pre=weights.get("b_pre", weights["b_dec"]) if facts.pre_bias else None,
        normalize=facts.normalize,
        denormalize=facts.denormalize,
        rescale_by_decoder_norm=facts.rescale_by_decoder_norm,
        latent_scale=weights.get("latent_scale"),
        scale_in=facts.scale_in,
        scale_out=facts.scale_out,
        W_skip=weights.get("W_skip"),
        transcoder=facts.transcoder,
    )


def _shapes(tensors: Mapping[str, Tensor], facts: Facts, path: Path) -> dict[str, tuple[int, ...]]:
    """What each tensor must be, by the sizes of ``W_dec``, and of ``W_enc`` in a transcoder."""
    for name, sizes in (("W_dec", "[d_sae, d_out]"), ("W_enc", "[d_in, d_sae]")):
        matrix = tensors.get(name)
        if matrix is None or matrix.ndim != 2 or 0 in matrix.shape:
            found = ", ".join(f"{n} {list(value.shape)}" for n, value in tensors.items())
            raise LoadError(
                f"{path}: no matrix {name} {sizes}; there is: {found or 'nothing'}",
                "keys" if matrix is None else "shapes",
            )
    d_sae, d_out = tensors["W_dec"].shape
    d_in = tensors["W_enc"].shape[0] if facts.transcoder else d_out
    per_latent = {
        "jumprelu": ("b_enc", "threshold"),
        "gated": ("b_gate", "b_mag", "r_mag"),
    }.get(facts.architecture, ("b_enc",))
    optional: dict[str, tuple[int, ...]] = {"b_pre": (d_in,), "latent_scale": (d_sae,)}
    if facts.transcoder:
        optional["W_skip"] = (d_out, d_in)
    return {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        **dict.fromkeys(per_latent, (d_sae,)),
        **{name: shape for name, shape in optional.items() if name in tensors},
    }


def _activation(weights: Mapping[str, Tensor], facts: Facts, path: Path) -> Activation:
    from sae_guard.sae.activations import AbsTopK, Gated, GroupMax, ReLU, TanhReLU, TopK

    with_k: Mapping[str, Callable[[int], Activation]] = {
        "topk": TopK, "abstopk": AbsTopK, "groupmax": GroupMax,
    }  # fmt: skip
    if facts.architecture in with_k:
        d_sae = len(weights["b_enc"])
        if facts.k is None or not 1 <= facts.k <= d_sae:
            raise LoadError(
                f"{path}: k is {facts.k}, allowed: 1 to {d_sae}, the number of latents",
                "activation",
            )
        if facts.architecture == "groupmax" and d_sae % facts.k:
            raise LoadError(
                f"{path}: k is {facts.k}, which does not divide {d_sae} into groups", "activation"
            )
        return with_k[facts.architecture](facts.k)
    if facts.k is not None:
        raise LoadError(
            f"{path}: k is {facts.k}, but a {facts.architecture} SAE has no k", "activation"
        )
    if facts.architecture == "jumprelu":
        return _jumprelu(weights["threshold"], facts, path)
    if facts.architecture == "gated":
        return Gated(weights["b_gate"], weights["b_mag"], weights["r_mag"])
    return TanhReLU() if facts.architecture == "tanh_relu" else ReLU()


def _jumprelu(threshold: Tensor, facts: Facts, path: Path) -> JumpReLU:
    from sae_guard.sae.activations import JumpReLU

    activation = JumpReLU(threshold, inclusive=facts.inclusive)
    if not activation.trained:
        raise LoadError(
            f"{path}: thresholds lie between {float(threshold.min()):g} and "
            f"{float(threshold.max()):g}, allowed: none below 0 and not all 0 (such values "
            "mark a threshold that was never trained: the SAE would be a plain ReLU one)",
            "threshold",
        )
    return activation


_PER_LATENT = ("b_enc", "threshold", "b_gate", "b_mag")


def oriented(
    tensors: Mapping[str, Tensor], *, transposed: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """``W_enc`` as [d, d_sae] and ``W_dec`` as [d_sae, d], and what had to be turned for it.

    Args:
        tensors: Under canonical names.
        transposed: The matrices that the format is known to keep the other way round. It decides
            where the sizes do not: d_sae is d, or a bias is missing.
    """
    turned, notes = dict(tensors), []
    d_sae, d = _length(tensors, *_PER_LATENT), _length(tensors, "b_dec")
    for name, shape in (("W_enc", (d, d_sae)), ("W_dec", (d_sae, d))):
        matrix = tensors.get(name)
        if matrix is None or matrix.ndim != 2:
            continue
        as_named, as_turned = matrix.shape == shape, matrix.shape == shape[::-1]
        lies = as_turned if as_named != as_turned else name in transposed
        if lies:
            turned[name] = matrix.T.contiguous()
        if lies != (name in transposed):
            notes.append(f"{name} lies as {list(matrix.shape)}, by the sizes of the biases")
    return turned, tuple(notes)


def _length(tensors: Mapping[str, Tensor], *names: str) -> int | None:
    return next(
        (len(tensors[name]) for name in names if name in tensors and tensors[name].ndim == 1), None
    )
