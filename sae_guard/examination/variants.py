"""Variants of an SAE as loaded: other pre-bias, normalisation, scale, centring or hook point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from jaxtyping import Float
from torch import Tensor

from sae_guard.core.diagnosis import OTHER_HOOK_POINT, SCALED_DECODER, Setting
from sae_guard.engine import HookSite
from sae_guard.sae import SAE, Normalize


@dataclass(frozen=True, eq=False)
class Variant:
    """The SAE and its hook points with one change, to see whether it then fits."""

    name: str
    """Name of the suspicion that it supports if it fits; one of `diagnosis.NAMES`."""
    change: str
    """Change, such as ``pre_bias: true``."""
    remedy: str
    """Advice if it fits: the change as a spec says it, or what to check."""
    sae: SAE
    options: tuple[Setting, ...] = ()
    """Options that make the change for one run, if there are any."""
    site: HookSite | None = None
    """Other hook points; None for those of the SAE as loaded."""
    centred: bool = False
    """True to subtract its mean from each activation, as centred weights do."""


def pre_biases(sae: SAE) -> Iterator[Variant]:
    """Yield the SAE with b_dec subtracted from the input if it is not, and otherwise without."""
    # The b_dec of a transcoder is in the space that it writes, not in that of its input.
    if sae.transcoder or not bool(sae.b_dec.any()):
        return
    subtract = sae.b_pre is None
    value = "true" if subtract else "false"
    yield Variant(
        "pre-bias",
        f"pre_bias: {value}",
        f"`sae: {{pre_bias: {value}}}`, unless the checkpoint's config says otherwise: "
        + ("b_dec has to be taken off" if subtract else "b_enc seems to hold it already"),
        replace(sae, b_pre=sae.b_dec if subtract else None),
        (("pre_bias", value),),
    )


def normalisations(sae: SAE) -> Iterator[Variant]:
    """Yield the SAE with each other normalisation of the input."""
    for kind in get_args(Normalize):
        if kind != sae.normalize and not sae.transcoder:
            yield Variant(
                "normalize",
                f"normalize: {kind}",
                f"`sae: {{normalize: {kind}}}`, unless the checkpoint's config says otherwise",
                replace(sae, normalize=kind),
                (("normalize", kind),),
            )


def trainer_scales(sae: SAE, x: Float[Tensor, "tokens d_in"]) -> Iterator[Variant]:
    """Yield the SAE with its input scaled as trainers of SAEs do, and not scaled at all.

    Args:
        sae: The SAE as loaded.
        x: Activations that the SAE reads.
    """
    if sae.transcoder:
        return
    norms = x.norm(dim=-1)
    scales = {
        # SAELens, `expected_average_only_in`.
        "the input scaled to a mean norm of √d_in": float(sae.d_in**0.5 / norms.mean()),
        # dictionary_learning, `normalize_activations`.
        "the input scaled to a mean squared norm of 1": float(norms.square().mean().rsqrt()),
        "no scale": 1.0,
    }
    for change, scale in scales.items():
        if (sae.scale_in, sae.scale_out) != (scale, scale):
            yield with_scale(sae, change, scale)


def with_scale(sae: SAE, change: str, scale: float) -> Variant:
    """Return the SAE with its input multiplied, and its reconstruction divided, by ``scale``."""
    factor = f"{scale:.4g}"
    return Variant(
        "scale",
        f"{change} (× {factor})",
        f"`sae: {{scale: {factor}}}`, unless the training noted another factor",
        replace(sae, scale_in=scale, scale_out=scale),
        (("scale", factor),),
    )


def centred_weights(sae: SAE) -> Iterator[Variant]:
    """Yield the SAE on the activations that HookedTransformer's centred weights would give."""
    if not sae.transcoder:
        yield Variant(
            "space",
            "processing: hooked",
            "`model: {processing: hooked}`: the SAE was trained on HookedTransformer's centred "
            "weights",
            sae,
            centred=True,
        )


def at_site(sae: SAE, site: HookSite) -> Variant:
    """Return the SAE, unchanged, at other hook points."""
    hook, value = site.read, site.read
    if site.read != site.replaced:
        hook, value = f"{site.read}, hook_out: {site.replaced}", ":".join(site.hooks)
    return Variant(
        OTHER_HOOK_POINT,
        f"hook: {hook}",
        f"`hook: {hook}` in the spec, or, where the checkpoint names no hook point, for one run",
        sae,
        (("hook", value),),
        site,
    )


def with_matched_decoder(matched: SAE) -> Variant:
    """Return the variant whose decoder rows are in the order of the encoder's columns already."""
    return Variant(
        "decoder-permuted",
        "each decoder row taken from where its encoder column points",
        "the decoder's rows are in another order than the encoder's columns: check how the "
        "checkpoint was sharded, merged or converted",
        matched,
    )


def with_scaled_decoder(sae: SAE, factor: float) -> Variant:
    """Return the SAE with its decoder, but not b_dec, multiplied by ``factor``.

    It has no remedy of its own: `core.diagnosis` words one from the factor.
    """
    scaled = replace(sae, W_dec=sae.W_dec * factor)
    return Variant(SCALED_DECODER, f"decoder × {factor:.4g}", "", scaled)
