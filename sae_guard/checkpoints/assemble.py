"""Canonical tensor names + what is known of the SAE → `SAE`, or a `LoadError` that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sae_guard.activations import AbsTopK, Activation, Gated, GroupMax, JumpReLU, ReLU, TopK
from sae_guard.checkpoints.files import check_shapes, float32
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE, Normalize, SaeSource

_WITH_K: Mapping[str, Callable[[int], Activation]] = {
    "topk": TopK,
    "abstopk": AbsTopK,
    "groupmax": GroupMax,
}


@dataclass(frozen=True)
class Facts:
    """What tells SAEs with the same tensors apart; nothing in here is guessed."""

    architecture: str
    """standard, topk, abstopk, groupmax, jumprelu or gated."""
    k: int | None
    pre_bias: bool
    normalize: Normalize
    rescale_by_decoder_norm: bool = False
    scale: float = 1.0


def check_agreement(facts: Facts, options: SaeOptions, path: Path) -> None:
    """Raise `LoadError` where the options contradict what the checkpoint says."""
    for name in ("architecture", "k", "pre_bias", "normalize"):
        asked, said = getattr(options, name), getattr(facts, name)
        if asked is not None and asked != said:
            raise LoadError(f"{path} says {name} {said!r}, the spec's `sae` block says {asked!r}")


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under canonical names; the matrices of torch.nn.Linear, [out, in], transposed."""
    return {
        names.get(name, name): (
            tensor.T.contiguous() if name.endswith(".weight") and tensor.ndim == 2 else tensor
        )
        for name, tensor in tensors.items()
    }


def assemble(tensors: Mapping[str, Tensor], facts: Facts, source: SaeSource, path: Path) -> SAE:
    """The SAE of ``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_in], ``b_enc``, ``b_dec`` and so on.

    Raises:
        LoadError: Keys are missing or left over, shapes disagree, a weight is not finite, a
            threshold is the mark of one that was never trained, or k does not fit.
    """
    check_shapes(tensors, _shapes(tensors, facts.architecture, path), path)
    weights = float32(tensors, path)
    activation = _activation(weights, facts, path)
    b_enc = (
        weights["b_enc"]
        if "b_enc" in weights
        else weights["b_mag"].new_zeros(len(weights["b_mag"]))
    )
    return SAE(
        weights["W_enc"],
        weights["W_dec"],
        b_enc,
        weights["b_dec"],
        activation,
        source,
        pre_bias=facts.pre_bias,
        normalize=facts.normalize,
        rescale_by_decoder_norm=facts.rescale_by_decoder_norm,
        scale=facts.scale,
    )


def _shapes(
    tensors: Mapping[str, Tensor], architecture: str, path: Path
) -> dict[str, tuple[int, ...]]:
    """What each tensor must be, by the sizes of ``W_dec``."""
    W_dec = tensors.get("W_dec")
    if W_dec is None or W_dec.ndim != 2:
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
        raise LoadError(f"{path}: no decoder matrix W_dec [d_sae, d_in]; there is: {found}")
    d_sae, d_in = W_dec.shape
    names = {
        "jumprelu": ("b_enc", "threshold"),
        "gated": ("b_gate", "b_mag", "r_mag"),
    }.get(architecture, ("b_enc",))
    return {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        **dict.fromkeys(names, (d_sae,)),
    }


def _activation(weights: Mapping[str, Tensor], facts: Facts, path: Path) -> Activation:
    if facts.architecture in _WITH_K:
        d_sae = len(weights["b_enc"])
        if facts.k is None or not 1 <= facts.k <= d_sae:
            raise LoadError(f"{path}: k is {facts.k}, allowed: 1 to {d_sae}, the number of latents")
        if facts.architecture == "groupmax" and d_sae % facts.k:
            raise LoadError(f"{path}: k is {facts.k}, which does not divide {d_sae} into groups")
        return _WITH_K[facts.architecture](facts.k)
    if facts.k is not None:
        raise LoadError(f"{path}: k is {facts.k}, but a {facts.architecture} SAE has no k")
    if facts.architecture == "jumprelu":
        threshold = weights["threshold"]
        if bool((threshold < 0).any()) or not bool((threshold > 0).any()):
            raise LoadError(
                f"{path}: thresholds lie between {float(threshold.min()):g} and "
                f"{float(threshold.max()):g}, allowed: none below 0 and not all 0 (such values "
                "mark a threshold that was never trained: the SAE would be a plain ReLU one)"
            )
        return JumpReLU(threshold)
    if facts.architecture == "gated":
        return Gated(weights["b_gate"], weights["b_mag"], weights["r_mag"])
    return ReLU()
