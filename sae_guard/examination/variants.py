"""What else an SAE, as it was loaded, could have been: pre-bias, normalisation, scale, space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from jaxtyping import Float
from torch import Tensor

from sae_guard.core.diagnosis import OTHER_PLACE, SCALED_DECODER, Setting
from sae_guard.engine import HookSite
from sae_guard.sae import SAE, Normalize


@dataclass(frozen=True, eq=False)
class Variant:
    """An SAE and a place, one thing of which is otherwise."""

    name: str
    change: str
    remedy: str
    sae: SAE
    place: HookSite
    centred: bool = False
    """Whether the activations are those of centred weights."""
    options: tuple[Setting, ...] = ()
    """What makes it so for one run, where options can."""


def biases(sae: SAE, place: HookSite) -> Iterator[Variant]:
    """Take b_dec off the input, or leave it."""
    if sae.transcoder or not bool(sae.b_dec.any()):
        return
    on = sae.b_pre is None
    value = "true" if on else "false"
    changed = replace(sae, b_pre=sae.b_dec if on else None)
    yield Variant(
        "pre-bias",
        f"pre_bias: {value}",
        f"`sae: {{pre_bias: {value}}}`, unless the checkpoint's config says otherwise: "
        + ("b_dec has to be taken off" if on else "b_enc seems to hold it already"),
        changed,
        place,
        options=(("pre_bias", value),),
    )


def normalisations(sae: SAE, place: HookSite) -> Iterator[Variant]:
    """Normalise the input in each other way."""
    for kind in get_args(Normalize):
        if kind != sae.normalize and not sae.transcoder:
            yield Variant(
                "normalize",
                f"normalize: {kind}",
                f"`sae: {{normalize: {kind}}}`, unless the checkpoint's config says otherwise",
                replace(sae, normalize=kind),
                place,
                options=(("normalize", kind),),
            )


def scales(sae: SAE, place: HookSite, x: Float[Tensor, "tokens d_in"]) -> Iterator[Variant]:
    """With the input scaled as trainers do, or not at all."""
    if sae.transcoder:
        return
    norms = x.norm(dim=-1)
    usual = {
        "the input scaled to a mean norm of √d_in": float(sae.d_in**0.5 / norms.mean()),
        "the input scaled to a mean squared norm of 1": float(norms.square().mean().rsqrt()),
        "no scale": 1.0,
    }
    for change, scale in usual.items():
        if (sae.scale_in, sae.scale_out) != (scale, scale):
            yield scaled(sae, place, change, scale)


def scaled(sae: SAE, place: HookSite, change: str, scale: float) -> Variant:
    """Multiply the input by ``scale`` and divide the reconstruction by it."""
    factor = f"{scale:.4g}"
    return Variant(
        "scale",
        f"{change} (× {factor})",
        f"`sae: {{scale: {factor}}}`, unless the training noted another factor",
        replace(sae, scale_in=scale, scale_out=scale),
        place,
        options=(("scale", factor),),
    )


def centred(sae: SAE, place: HookSite) -> Iterator[Variant]:
    """With activations of centred weights."""
    if not sae.transcoder:
        yield Variant(
            "space",
            "processing: hooked",
            "`model: {processing: hooked}`: the SAE was trained on HookedTransformer's centred "
            "weights",
            sae,
            place,
            centred=True,
        )


def elsewhere(sae: SAE, place: HookSite) -> Variant:
    """Patch it in at another place."""
    hook, value = place.read, place.read
    if place.read != place.replaced:
        hook, value = f"{place.read}, hook_out: {place.replaced}", ":".join(place.hooks)
    return Variant(
        OTHER_PLACE,
        f"hook: {hook}",
        f"`hook: {hook}` in the spec, or, where the checkpoint names no hook point, for one run",
        sae,
        place,
        options=(("hook", value),),
    )


def reordered(matched: SAE, place: HookSite) -> Variant:
    """With the decoder's rows in the order of the encoder's columns."""
    return Variant(
        "decoder-permuted",
        "each decoder row taken from where its encoder column points",
        "the decoder's rows are in another order than the encoder's columns: check how the "
        "checkpoint was sharded, merged or converted",
        matched,
        place,
    )


def scaled_decoder(sae: SAE, place: HookSite, factor: float) -> Variant:
    """With x̂ multiplied by a factor, b_dec aside."""
    return Variant(
        SCALED_DECODER, f"decoder × {factor:.4g}", "", replace(sae, W_dec=sae.W_dec * factor), place
    )
