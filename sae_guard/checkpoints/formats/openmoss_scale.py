"""The scale of OpenMOSS checkpoints: sqrt(d_model) over an average norm of activations.

It is stored with the weights, and since 2026-04 may have been folded into them as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sae_guard.checkpoints.formats.openmoss_config import Config
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

_LEAST, _MOST = 1e-6, 1e20  # of the average norm of activations
_NEAR = 0.01  # to the stored scale, which bfloat16 rounds by up to 0.4 %


@dataclass(frozen=True)
class Norm:
    """An average norm of activations as it is stored: its key and its value, if there is one."""

    name: str
    value: float | None

    @property
    def measured(self) -> bool:
        """Whether it can be one; what was never measured is memory that nobody has written to."""
        return self.value is not None and _LEAST <= self.value <= _MOST

    def factor(self, config: Config) -> float:
        """sqrt(d_model) over the norm; raises `LoadError` if it was not measured."""
        if self.value is None or not self.measured:
            found = "missing" if self.value is None else str(self.value)
            raise LoadError(
                f"{config.path}: norm_activation is 'dataset-wise' and {self.name} is {found}, "
                f"allowed: {_LEAST:g} to {_MOST:g} (where no norm was measured, OpenMOSS stores "
                "none, or memory that nobody has written to); if you know the factor, say it as "
                "`sae.scale: NUMBER`",
                "scale",
            )
        return math.sqrt(config.d_model) / self.value


def scales(
    config: Config, norms: tuple[Norm, Norm], options: SaeOptions, *, may_be_folded: bool
) -> tuple[float, float]:
    """What the input is multiplied by and the reconstruction divided by.

    Raises:
        LoadError: The norm was not measured, the weights may hold the scale already, or the
            options contradict what is stored.
    """
    said = options.scale
    if config.norm != "dataset-wise":
        if said == "stored":
            raise LoadError(
                f"{config.path}: norm_activation is {config.norm!r}, so no stored scale is "
                "applied; the `sae` options say scale 'stored'",
                "scale",
            )
        return 1.0, 1.0
    if said == "folded" and may_be_folded:
        return 1.0, 1.0
    if said == "folded":
        raise LoadError(
            f"{config.path}: norm_activation is 'dataset-wise', and OpenMOSS folded no scale into "
            "weights of this form; the `sae` options say scale 'folded'",
            "scale",
        )
    if isinstance(said, float):
        return _said(said, config, norms, may_be_folded=may_be_folded)
    scale_in, scale_out = (norm.factor(config) for norm in norms)
    if said is None and may_be_folded:
        raise LoadError(
            f"{config.path} is ambiguous; decide in the spec:"
            f"\n  sae.scale (--sae-scale): "
            f"stored (norm_activation is 'dataset-wise': the input is multiplied by "
            f"{scale_in:.6g} and the reconstruction divided by {scale_out:.6g})"
            "\n  sae.scale (--sae-scale): "
            "folded (the weights hold it already: what a run of OpenMOSS saves at "
            "its end since 2026-04, under the same config)",
            "scale",
        )
    return scale_in, scale_out


def _said(
    scale: float, config: Config, norms: tuple[Norm, Norm], *, may_be_folded: bool
) -> tuple[float, float]:
    if config.transcoder:
        raise LoadError(
            f"{config.path}: a transcoder has a scale of its input and one of its output; the "
            f"`sae` options say one, {scale:g}",
            "scale",
        )
    stored = norms[0].factor(config) if norms[0].measured else scale
    if abs(scale / stored - 1) > _NEAR and not (may_be_folded and scale == 1):
        raise LoadError(
            f"{config.path} has scale {stored:g}, the `sae` options say {scale:g}", "scale"
        )
    return scale, scale
