"""Parts shared by the OpenMOSS formats of all versions: config, names of tensors, scale.

https://github.com/OpenMOSS/Language-Model-SAEs, `src/lm_saes/config.py`, later
`src/llamascopium/models/sparse_dictionary.py`.

The scale is sqrt(d_model) over an average norm of activations. It is stored with the weights, and
since 2026-04 may have been folded into them as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import Declaration, check_known, text_or_none
from sae_guard.checkpoints.files import CheckpointFiles, read_config
from sae_guard.checkpoints.format import Opened
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE, DecoderNorm, Normalize, SaeSource

_NAMES = {
    "encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec",
    "decoder.bias": "b_dec", "W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec",
}  # fmt: skip
NORM = "dataset_average_activation_norm"
_TYPES = ("sae", "matryoshka_sae")
_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
_NORMS: Mapping[str, Normalize] = {
    "token-wise": "constant_norm_rescale", "dataset-wise": "none", "inference": "none",
    "none": "none",
}  # fmt: skip
_HUGE = 1e300  # larger values overflow
FIELDS = {
    "sae_type", "hook_point_in", "hook_point_out", "d_model", "d_sae", "expansion_factor",
    "use_decoder_bias", "apply_decoder_bias_to_pre_encoder", "use_glu_encoder", "act_fn", "top_k",
    "jump_relu_threshold", "norm_activation", "sparsity_include_decoder_norm",
    "sae_pretrained_name_or_path", "strict_loading", "device", "dtype",
}  # fmt: skip
"""Config fields of all versions; every version has further fields for the training."""


@dataclass(frozen=True)
class Config:
    """A checkpoint with its config; reading a value of the wrong type raises `LoadError`."""

    opened: Opened
    """The files, without the mapping around the state dict of a ``.pt`` file."""
    values: Mapping[str, Any]
    path: Path

    @classmethod
    def read(cls, opened: Opened, fields: set[str]) -> Config:
        """Return the config, whose fields must all be in ``fields``; raises `LoadError`."""
        opened = unwrapped(opened)
        if opened.config_file is None or opened.config is None:
            raise LoadError(
                f"{opened.path}: an OpenMOSS checkpoint without its config, which states the "
                "activation function and the normalisation; put the config beside the weights"
            )
        config = cls(opened, opened.config, opened.config_file)
        if config.values.get("sae_type", "sae") not in _TYPES:
            raise LoadError(
                f"{config.path}: sae_type is {config.values['sae_type']!r}, allowed: "
                f"{', '.join(_TYPES)}"
            )
        check_known(config.values, fields, config.path, contract="keys")
        glu = sorted(name for name in opened.entries if "_glu" in name)
        if glu or config.flag("use_glu_encoder", default=False):
            raise LoadError(
                f"{config.path}: use_glu_encoder with {', '.join(glu) or 'no tensors'}, allowed: "
                "false (encoders with a gated linear unit are not read)"
            )
        return config

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Return a boolean field."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self._unexpected(name, value, "true or false")
        return value

    def number(self, name: str, *, default: float | None = None) -> float:
        """Return a field that is a finite number."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not -_HUGE < value < _HUGE:
            raise self._unexpected(name, value, "a number")
        return cast("float", value)

    def text(self, name: str) -> str:
        """Return a text field."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self._unexpected(name, value, "text")
        return value

    def _unexpected(self, name: str, value: object, expected: str) -> LoadError:
        text = repr(value) if name in self.values else "missing"
        return LoadError(f"{self.path}: {name} is {text}, expected {expected}", "keys")

    @property
    def d_model(self) -> float:
        """Width of the activations."""
        d_model = self.number("d_model")
        if d_model <= 0:
            raise self._unexpected("d_model", d_model, "a positive number")
        return d_model

    @property
    def hooks(self) -> tuple[str, str]:
        """Hook points of input and output; the same where the config has only the first."""
        read = self.text("hook_point_in")
        return read, read if self.values.get("hook_point_out") is None else self.text(
            "hook_point_out"
        )

    @property
    def transcoder(self) -> bool:
        """True where input and output are different hook points."""
        return len(set(self.hooks)) == 2

    @property
    def norm(self) -> str:
        """Normalisation of the activations, one of `_NORMS`.

        Raises:
            LoadError: The norm is that of a batch, or of a transcoder's output at run time.
        """
        norm = self.text("norm_activation")
        if norm == "batch-wise":
            raise LoadError(
                f"{self.path}: norm_activation is 'batch-wise': the latents of a token depend on "
                f"its batch; allowed: {', '.join(_NORMS)}",
                "batch_mates",
            )
        if norm not in _NORMS:
            raise LoadError(
                f"{self.path}: norm_activation is {norm!r}, allowed: {', '.join(_NORMS)}", "scale"
            )
        if norm == "token-wise" and self.transcoder:
            raise LoadError(
                f"{self.path}: norm_activation is 'token-wise' in a transcoder: its output is in "
                "units of the norm of the replaced activation, which is unknown at run time; "
                "allowed: dataset-wise, inference, none",
                "scale",
            )
        return norm

    @property
    def architecture(self) -> str:
        """Activation family; raises `LoadError` where it depends on the batch."""
        name = self.text("act_fn").lower()
        if "batch" in name:
            raise LoadError(
                f"{self.path}: act_fn is {name!r}: the active latents of a token depend on its "
                f"batch, and no threshold is stored; allowed: {', '.join(_ARCHITECTURES)}",
                "batch_mates",
            )
        if name not in _ARCHITECTURES:
            raise LoadError(
                f"{self.path}: act_fn is {name!r}, allowed: {', '.join(_ARCHITECTURES)}",
                "activation",
            )
        return _ARCHITECTURES[name]

    @property
    def biased(self) -> bool:
        """True where there is a decoder bias, by the config or else by the tensors."""
        stored = not {"b_D", "decoder.bias"}.isdisjoint(self.opened.entries)
        return self.flag("use_decoder_bias", default=stored)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights under canonical names, with zeros for a missing decoder bias."""
        weights = {n: t for n, t in self.opened.tensors.items() if not n.startswith(f"{NORM}.")}
        tensors = renamed(weights, _NAMES)
        if not self.biased:
            if "b_dec" in tensors:
                raise LoadError(
                    f"{self.path}: use_decoder_bias is false, but {self.opened.weights.name} has a "
                    "decoder bias",
                    "keys",
                )
            W_dec = tensors.get("W_dec")
            if W_dec is not None and W_dec.ndim == 2:
                tensors["b_dec"] = W_dec.new_zeros(W_dec.shape[1])
        return tensors

    def settings(
        self, architecture: str, scales: tuple[float, float], decoder_norm: DecoderNorm,
        *, pre_bias: bool,
    ) -> ForwardSettings:  # fmt: skip
        """Return the settings of the forward pass.

        Args:
            architecture: Activation family.
            scales: Factor of the input, and divisor of the reconstruction.
            decoder_norm: Use of decoder norms, if ``sparsity_include_decoder_norm`` is true.
            pre_bias: Whether a bias is subtracted from the input.

        Raises:
            LoadError: A TopK SAE has no k. In others ``top_k`` is a setting of the training.
        """
        k = self.number("top_k") if architecture == "topk" else None
        if k is not None and not isinstance(k, int):
            raise LoadError(f"{self.path}: top_k is {k!r}, expected a whole number", "activation")
        in_decoder_units = self.flag("sparsity_include_decoder_norm")
        return ForwardSettings(
            architecture,
            k,
            pre_bias=pre_bias,
            normalize=_NORMS[self.norm],
            rescale_by_decoder_norm=decoder_norm if in_decoder_units else "none",
            scale_in=scales[0],
            scale_out=scales[1],
            transcoder=self.transcoder,
        )

    def sae(
        self, tensors: Mapping[str, Tensor], settings: ForwardSettings, source: SaeSource
    ) -> SAE:
        """Build the SAE, and check the sizes in the config; raises `LoadError`."""
        sae = assemble(tensors, settings, source, self.opened.weights)
        d_model = self.d_model
        has_d_sae = self.values.get("d_sae") is not None  # only lm_saes 1 writes it
        d_sae = self.number("d_sae") if has_d_sae else d_model * self.number("expansion_factor")
        sizes = (("d_model", d_model, sae.d_in), ("d_model", d_model, sae.d_out))
        for name, stated, stored in (*sizes, ("d_sae", d_sae, sae.d_sae)):
            if abs(stated - stored) > 1e-6:  # an expansion factor may be a fraction
                raise LoadError(
                    f"{self.path}: {name} is {stated:g}, but {self.opened.weights.name} has "
                    f"{stored}",
                    "shapes",
                )
        return sae

    def scales(
        self, norms: tuple[Norm, Norm], options: SaeOptions, *, may_be_folded: bool
    ) -> tuple[float, float]:
        """Return the factor of the input and the divisor of the reconstruction.

        Args:
            norms: The stored norms of input and output.
            options: The options of the user.
            may_be_folded: True for versions that may have folded the scale into the weights.

        Raises:
            LoadError: The norm was not measured, the options do not decide whether the weights
                include the scale, or they contradict the stored scale.
        """
        requested = options.scale
        if self.norm != "dataset-wise":
            if requested == "stored":
                raise self._wrong_scale(
                    f": norm_activation is {self.norm!r}, so no stored scale is applied; the `sae` "
                    "options say scale 'stored', allowed: no scale"
                )
            return 1.0, 1.0
        if requested == "folded" and may_be_folded:
            return 1.0, 1.0
        if requested == "folded":
            raise self._wrong_scale(
                ": norm_activation is 'dataset-wise', and this version of OpenMOSS folds no scale "
                "into the weights; the `sae` options say scale 'folded', allowed: stored, or no "
                "scale"
            )
        if isinstance(requested, float):
            return self._scale_from_options(requested, norms, may_be_folded=may_be_folded)
        scale_in, scale_out = (norm.factor(self) for norm in norms)
        if requested is None and may_be_folded:
            stored = (
                "stored (norm_activation is 'dataset-wise': the input is multiplied by "
                f"{scale_in:.6g} and the reconstruction divided by {scale_out:.6g})"
            )
            folded = (
                "folded (the weights include it already, as OpenMOSS saves at the end of a run "
                "since 2026-04, with the same config)"
            )
            subject = f"{self.path} is ambiguous"
            raise ambiguous(subject, "scale", ("scale", stored), ("scale", folded))
        return scale_in, scale_out

    def _scale_from_options(
        self, scale: float, norms: tuple[Norm, Norm], *, may_be_folded: bool
    ) -> tuple[float, float]:
        if self.transcoder:
            raise self._wrong_scale(
                ": a transcoder has a scale of its input and one of its output; the `sae` options "
                f"say one, {scale:g}; allowed: folded or stored"
            )
        stored = norms[0].factor(self) if norms[0].measured else scale
        if abs(scale / stored - 1) > _SCALE_TOLERANCE and not (may_be_folded and scale == 1):
            raise self._wrong_scale(
                f" has scale {stored:g}, the `sae` options say {scale:g}; allowed: up to 1 % from "
                "the stored scale, or no scale in the options"
            )
        return scale, scale

    def _wrong_scale(self, message: str) -> LoadError:
        return LoadError(f"{self.path}{message}", "scale", options=("scale",))


LM_CONFIG = "lm_config.json"


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read both hook points from the config, and the model from ``lm_config.json``, if it exists.

    Raises:
        LoadError: A name is no text, or ``lm_config.json`` is unreadable.
    """
    config, path = files.config or {}, files.config_file or files.weights
    if "hook_point_in" not in config:
        return None
    hook, hook_out = (
        text_or_none(config.get(key), path, key) for key in ("hook_point_in", "hook_point_out")
    )
    lm_config = path.with_name(LM_CONFIG)
    model = read_config(lm_config).get("model_name") if lm_config.is_file() else None
    return Declaration(
        text_or_none(model, lm_config, "model_name"), hook, hook_out if hook_out != hook else None
    )


def unwrapped(opened: Opened) -> Opened:
    """Return the checkpoint without the mapping around the state dict of a ``.pt`` file."""
    inner = opened.entries.get("sae")
    if set(opened.entries) != {"sae", "version"} or not isinstance(inner, Mapping):
        return opened
    return replace(opened, entries={str(name): value for name, value in inner.items()})


_MIN_NORM, _MAX_NORM = 1e-6, 1e20  # of the average norm of activations
_SCALE_TOLERANCE = 0.01  # relative: bfloat16 rounds the stored scale by up to 0.4 %


@dataclass(frozen=True)
class Norm:
    """A stored average norm of activations: its key and its value, None where it is missing."""

    name: str
    value: float | None

    @property
    def measured(self) -> bool:
        """True where the value is plausible; OpenMOSS stores uninitialised memory otherwise."""
        return self.value is not None and _MIN_NORM <= self.value <= _MAX_NORM

    def factor(self, config: Config) -> float:
        """Return sqrt(d_model) / norm; raises `LoadError` if the norm was not measured."""
        if self.value is None or not self.measured:
            value = "missing" if self.value is None else str(self.value)
            raise config._wrong_scale(
                f": norm_activation is 'dataset-wise' and {self.name} is {value}, allowed: "
                f"{_MIN_NORM:g} to {_MAX_NORM:g} (where no norm was measured, OpenMOSS stores "
                "none, or uninitialised memory); if you know sqrt(d_model) / norm, set "
                "`sae.scale: NUMBER`"
            )
        return math.sqrt(config.d_model) / self.value
