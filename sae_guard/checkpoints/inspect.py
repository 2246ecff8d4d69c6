"""Description of a loaded checkpoint: its facts and warnings as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from sae_guard.checkpoints.formats import saelens_training
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.sae import SAE
from sae_guard.sae.activations import JumpReLU

_UNIT, _UNIT_OF_HALVES = 1e-3, 1e-2
"""Largest distance from 1 of the norm of a unit decoder row; trained float32 rows are within 1e-6.
The second one is for 16-bit weights."""

_NEUTRAL = {
    "transcoder": False, "denormalize": True, "rescale_by_decoder_norm": "none",
    "latent_scale": False, "scale_in": 1.0, "scale_out": 1.0, "skip": False,
}  # fmt: skip
"""Values that change nothing in the forward pass and are not listed."""
_NOT_FACTS = (
    "path", "format", "files", "assumptions", "architecture", "k", "d_in", "d_sae", "d_out",
)  # fmt: skip


def facts(sae: SAE, options: SaeOptions = NOTHING_SAID) -> Iterator[tuple[str, str]]:
    """Yield name and value of all settings of the forward pass, then of the provenance.

    Args:
        sae: The loaded SAE.
        options: The options it was loaded with.
    """
    identity = sae.identity
    yield "format", sae.source.format
    if sae.transcoder:
        yield "size", f"{sae.d_in} × {sae.d_sae} × {sae.d_out} (d_in × d_sae × d_out), a transcoder"
    else:
        yield "size", f"{sae.d_in} × {sae.d_sae} (d_in × d_sae)"
    yield "activation", _activation(sae)
    for name, value in identity.items():
        if name not in _NOT_FACTS and not (name in _NEUTRAL and value == _NEUTRAL[name]):
            yield name, _word(value)
    for name, digest in sae.source.files.items():
        yield name, f"sha256 {digest}"
    for assumption in sae.source.assumptions:
        yield "assumed", assumption
    for key, value in options.model_dump(exclude_none=True).items():
        yield "said", f"{key} is {_word(value)}, by the options: the checkpoint cannot vouch for it"
    for warning in warnings(sae, options):
        yield "WARNING", warning


def warnings(sae: SAE, options: SaeOptions = NOTHING_SAID) -> Iterator[str]:
    """Yield a warning per property that is allowed but is a common source of wrong numbers."""
    if options.scale in ("folded", "stored"):
        yield (
            "the files do not say whether the scale of the input is folded into the weights: "
            "compare the L0 with scale folded and stored"
        )
    elif options.scale is not None:
        yield "the scale of the input is not stored in the checkpoint: release it with the SAE"
    if (text := saelens_training.warning(sae.source.declared)) is not None:
        yield text
    norms = sae.W_dec.norm(dim=-1)
    stored = str(sae.source.declared.get("stored_dtype", ""))
    if bool(((norms - 1).abs() > (_UNIT_OF_HALVES if "float16" in stored else _UNIT)).any()):
        yield (
            f"decoder rows have norms {_range(norms)}, not 1: latents of different SAEs are on "
            "different scales"
        )
    if isinstance(sae.activation, JumpReLU) and "float16" in stored:
        yield f"thresholds are stored in {stored}: rounding flips latents near them"


def _activation(sae: SAE) -> str:
    activation = sae.activation
    if isinstance(activation, JumpReLU):
        boundary = ", kept from the threshold on" if activation.inclusive else ""
        return f"jumprelu, thresholds {_range(activation.threshold)}{boundary}"
    k = getattr(activation, "k", None)
    return activation.architecture + (f", k = {k}" if k is not None else "")


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.4g} to {float(values.max()):.4g}"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
