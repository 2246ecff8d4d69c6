"""Canonical tensors and the settings of the forward pass → `SAE`, or a `LoadError` with the reason.

The sizes of the biases decide whether a matrix is stored transposed; its name alone does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError, Option

if TYPE_CHECKING:  # `declare` imports this module and must not import torch
    from torch import Tensor

    from sae_guard.sae import SAE, DecoderNorm, Normalize, SaeSource
    from sae_guard.sae.activations import Activation, JumpReLU

_SAME_SCALE = 1e-4
"""Largest relative difference between two roundings of the same scale."""


@dataclass(frozen=True)
class ForwardSettings:
    """Settings of the forward pass, which differ between SAEs with the same tensors.

    Every value comes from the checkpoint, its format or the options; none is guessed.
    """

    architecture: str
    """Activation family, one of `options.Architecture`."""
    k: int | None = None
    """Active latents per token of a TopK SAE, None for other activations."""
    _: KW_ONLY
    pre_bias: bool
    """True where ``b_pre``, or b_dec without one, is subtracted from the input."""
    normalize: Normalize = "none"
    denormalize: bool = True
    rescale_by_decoder_norm: DecoderNorm = "none"
    scale_in: float = 1.0
    scale_out: float = 1.0
    inclusive: bool = False
    """True where a JumpReLU latent is active at its threshold, not only above it."""
    transcoder: bool = False


def check_agreement(sae: SAE, options: SaeOptions, path: Path | str) -> None:
    """Raise `LoadError` where the options contradict the SAE that was read from ``path``."""
    facts: dict[Option, object] = {
        "architecture": sae.activation.architecture,
        "k": getattr(sae.activation, "k", None),
        "pre_bias": sae.b_pre is not None,
        "normalize": sae.normalize,
    }
    for name, stored in facts.items():
        required = getattr(options, name)
        if required is not None and required != stored:
            raise LoadError(
                f"{path} says {name} {stored!r}, the `sae` options say {required!r}; allowed: "
                f"{stored!r}, or no {name} in the options",
                "activation",
                options=(name,),
            )
    if isinstance(options.scale, float) and not math.isclose(
        options.scale, sae.scale_in, rel_tol=_SAME_SCALE
    ):
        raise LoadError(
            f"{path} has scale {sae.scale_in:g}, the `sae` options say {options.scale}; "
            f"allowed: {sae.scale_in:g}, or no scale in the options",
            "scale",
            options=("scale",),
        )


def check_sizes(stated: Mapping[str, Any], sizes: Mapping[str, int], path: Path) -> None:
    """Raise `LoadError` where the sizes in a config differ from those of the weights.

    Args:
        stated: The config, which may lack some of the sizes.
        sizes: The sizes of the weights, under the keys of the config.
        path: The config file.
    """
    for key, size in sizes.items():
        if stated.get(key, size) != size:
            raise LoadError(
                f"{path}: {key} is {stated[key]!r}, but the weights have {size}", "shapes"
            )


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename tensors to canonical names, and transpose the matrices of torch.nn.Linear.

    Args:
        tensors: Tensors as stored; matrices called ``*.weight`` are [out, in].
        names: Stored name → canonical name; other names are kept.
    """
    return {
        names.get(name, name): (
            tensor.T.contiguous() if name.endswith(".weight") and tensor.ndim == 2 else tensor
        )
        for name, tensor in tensors.items()
    }


def assemble(
    tensors: Mapping[str, Tensor], settings: ForwardSettings, source: SaeSource, path: Path
) -> SAE:
    """Build the SAE from its tensors, and check that they fit each other.

    Args:
        tensors: ``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``b_enc`` [d_sae], ``b_dec``
            [d_out] and those of the activation; optionally ``b_pre`` [d_in], ``latent_scale``
            [d_sae] and, in transcoders, ``W_skip`` [d_out, d_in].
        settings: Settings of the forward pass.
        source: Provenance.
        path: The weights file, for messages.

    Raises:
        LoadError: Tensors are missing or unknown, shapes disagree, a weight is not finite, the
            thresholds were never trained, or k does not fit.
    """
    from sae_guard.checkpoints.tensor_files import check_shapes, float32
    from sae_guard.sae import SAE

    check_shapes(tensors, _shapes(tensors, settings, path), path)
    weights = float32(tensors, path)
    activation = _activation(weights, settings, path)
    b_enc = weights.get("b_enc")
    return SAE(
        weights["W_enc"],
        weights["W_dec"],
        # A gated SAE has no b_enc: gate and magnitude have a bias each.
        weights["b_mag"].new_zeros(len(weights["b_mag"])) if b_enc is None else b_enc,
        weights["b_dec"],
        activation,
        source,
        b_pre=weights.get("b_pre", weights["b_dec"]) if settings.pre_bias else None,
        normalize=settings.normalize,
        denormalize=settings.denormalize,
        rescale_by_decoder_norm=settings.rescale_by_decoder_norm,
        latent_scale=weights.get("latent_scale"),
        scale_in=settings.scale_in,
        scale_out=settings.scale_out,
        W_skip=weights.get("W_skip"),
        transcoder=settings.transcoder,
    )


def _shapes(
    tensors: Mapping[str, Tensor], settings: ForwardSettings, path: Path
) -> dict[str, tuple[int, ...]]:
    """Return the expected shapes, from those of ``W_dec`` and, in a transcoder, of ``W_enc``."""
    for name, sizes in (("W_dec", "[d_sae, d_out]"), ("W_enc", "[d_in, d_sae]")):
        matrix = tensors.get(name)
        if matrix is None or matrix.ndim != 2 or 0 in matrix.shape:
            shapes = ", ".join(f"{n} {list(value.shape)}" for n, value in tensors.items())
            raise LoadError(
                f"{path}: no matrix {name} {sizes}; the file has: {shapes or 'no tensors'}",
                "keys" if matrix is None else "shapes",
            )
    d_sae, d_out = tensors["W_dec"].shape
    d_in = tensors["W_enc"].shape[0] if settings.transcoder else d_out
    per_latent = {"jumprelu": ("b_enc", "threshold"), "gated": ("b_gate", "b_mag", "r_mag")}.get(
        settings.architecture, ("b_enc",)
    )
    optional: dict[str, tuple[int, ...]] = {"b_pre": (d_in,), "latent_scale": (d_sae,)}
    if settings.transcoder:
        optional["W_skip"] = (d_out, d_in)
    return {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        **dict.fromkeys(per_latent, (d_sae,)),
        **{name: shape for name, shape in optional.items() if name in tensors},
    }


def _activation(weights: Mapping[str, Tensor], settings: ForwardSettings, path: Path) -> Activation:
    from sae_guard.sae.activations import AbsTopK, Gated, GroupMax, ReLU, TanhReLU, TopK

    with_k: Mapping[str, Callable[[int], Activation]] = {
        "topk": TopK, "abstopk": AbsTopK, "groupmax": GroupMax,
    }  # fmt: skip
    if settings.architecture in with_k:
        d_sae = len(weights["b_enc"])
        if settings.k is None or not 1 <= settings.k <= d_sae:
            raise LoadError(
                f"{path}: k is {settings.k}, allowed: 1 to {d_sae}, the number of latents",
                "activation",
            )
        if settings.architecture == "groupmax" and d_sae % settings.k:
            raise LoadError(
                f"{path}: k is {settings.k}, allowed in a groupmax SAE: a divisor of {d_sae}, the "
                "number of latents",
                "activation",
            )
        return with_k[settings.architecture](settings.k)
    if settings.k is not None:
        raise LoadError(
            f"{path}: k is {settings.k}, but a {settings.architecture} SAE has no k; remove k, or "
            "set the architecture to topk",
            "activation",
        )
    if settings.architecture == "jumprelu":
        return _jumprelu(weights["threshold"], settings, path)
    if settings.architecture == "gated":
        return Gated(weights["b_gate"], weights["b_mag"], weights["r_mag"])
    return TanhReLU() if settings.architecture == "tanh_relu" else ReLU()


def _jumprelu(threshold: Tensor, settings: ForwardSettings, path: Path) -> JumpReLU:
    from sae_guard.sae.activations import JumpReLU

    activation = JumpReLU(threshold, inclusive=settings.inclusive)
    if not activation.trained:
        raise LoadError(
            f"{path}: thresholds are {float(threshold.min()):g} to {float(threshold.max()):g}: "
            "they were never trained; allowed: none below 0, and some above 0 (with all at 0 the "
            "SAE would be a ReLU SAE)",
            "threshold",
        )
    return activation


_PER_LATENT = ("b_enc", "threshold", "b_gate", "b_mag")


def oriented(
    tensors: Mapping[str, Tensor], *, transposed: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors with ``W_enc`` as [d, d_sae] and ``W_dec`` as [d_sae, d].

    Args:
        tensors: Tensors under canonical names.
        transposed: Matrices that the format usually stores transposed. It decides where the sizes
            do not: d_sae equals d, or a bias is missing.

    Returns:
        The tensors, and a note per matrix whose orientation is not the usual one of the format.
    """
    result, notes = dict(tensors), []
    d_sae, d = _length(tensors, *_PER_LATENT), _length(tensors, "b_dec")
    for name, shape in (("W_enc", (d, d_sae)), ("W_dec", (d_sae, d))):
        matrix = tensors.get(name)
        if matrix is None or matrix.ndim != 2:
            continue
        fits, fits_transposed = matrix.shape == shape, matrix.shape == shape[::-1]
        is_transposed = fits_transposed if fits != fits_transposed else name in transposed
        if is_transposed:
            # Contiguous: rows of W_dec are gathered only then (`sae.sparse_forward`).
            result[name] = matrix.T.contiguous()
        if is_transposed != (name in transposed):
            notes.append(f"{name} lies as {list(matrix.shape)}, by the sizes of the biases")
    return result, tuple(notes)


def _length(tensors: Mapping[str, Tensor], *names: str) -> int | None:
    """Return the length of the first vector among ``names``; None without one."""
    return next(
        (len(tensors[name]) for name in names if name in tensors and tensors[name].ndim == 1), None
    )
