"""What the OpenMOSS checkpoints of every age have in common: config, names of tensors, scale.

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

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.declarations import Declaration, text_or_none
from sae_guard.checkpoints.files import CheckpointFiles, read_config
from sae_guard.checkpoints.format import Opened
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE, Normalize, SaeSource

_NAMES = {
    "encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec",
    "decoder.bias": "b_dec", "W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec",
}  # fmt: skip
NORM = "dataset_average_activation_norm"
_TYPES = ("sae", "matryoshka_sae")
_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
NORMS: Mapping[str, Normalize] = {
    "token-wise": "constant_norm_rescale", "dataset-wise": "none", "inference": "none",
    "none": "none",
}  # fmt: skip
_HUGE = 1e300  # larger ones overflow
FIELDS = {
    "sae_type", "hook_point_in", "hook_point_out", "d_model", "d_sae", "expansion_factor",
    "use_decoder_bias", "apply_decoder_bias_to_pre_encoder", "use_glu_encoder", "act_fn", "top_k",
    "jump_relu_threshold", "norm_activation", "sparsity_include_decoder_norm",
    "sae_pretrained_name_or_path", "strict_loading", "device", "dtype",
}  # fmt: skip
"""Of every age. Others are of the training, and each age has its own."""


@dataclass(frozen=True)
class Config:
    """The config of a checkpoint; what is read of it has the right type, or a `LoadError`."""

    values: Mapping[str, Any]
    path: Path

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self._unexpected(name, value, "true or false")
        return value

    def number(self, name: str, *, default: float | None = None) -> float:
        """A finite number."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or not -_HUGE < value < _HUGE:
            raise self._unexpected(name, value, "a number")
        return cast("float", value)

    def text(self, name: str) -> str:
        """Text."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self._unexpected(name, value, "text")
        return value

    def _unexpected(self, name: str, value: object, expected: str) -> LoadError:
        found = repr(value) if name in self.values else "missing"
        return LoadError(f"{self.path}: {name} is {found}, expected {expected}", "keys")

    @property
    def d_model(self) -> float:
        """Width of the activations."""
        d_model = self.number("d_model")
        if d_model <= 0:
            raise self._unexpected("d_model", d_model, "a positive number")
        return d_model

    @property
    def hooks(self) -> tuple[str, str]:
        """Where it reads and what it reconstructs; the same, if only the first is said."""
        read = self.text("hook_point_in")
        return read, read if self.values.get("hook_point_out") is None else self.text(
            "hook_point_out"
        )

    @property
    def transcoder(self) -> bool:
        """Whether it reads one hook point and replaces another."""
        return len(set(self.hooks)) == 2

    @property
    def norm(self) -> str:
        """The normalisation of the activations; of one token or of the dataset, or none.

        Raises:
            LoadError: It is that of a batch, or of a label that is not there without the model.
        """
        norm = self.text("norm_activation")
        if norm == "batch-wise":
            raise LoadError(
                f"{self.path}: norm_activation is 'batch-wise': what a token gives depends on its "
                f"batch; allowed: {', '.join(NORMS)}",
                "batch_mates",
            )
        if norm not in NORMS:
            raise LoadError(
                f"{self.path}: norm_activation is {norm!r}, allowed: {', '.join(NORMS)}", "scale"
            )
        if norm == "token-wise" and self.transcoder:
            raise LoadError(
                f"{self.path}: norm_activation is 'token-wise' in a transcoder: its output is in "
                "units of the norm of what it replaces, which the input does not tell",
                "scale",
            )
        return norm


LM_CONFIG = "lm_config.json"


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read both hook points in the config, and the model in a file beside it, if there is one.

    Raises:
        LoadError: A name is no text, or the file beside the config is unreadable.
    """
    config, path = files.config or {}, files.config_file or files.weights
    if "hook_point_in" not in config:
        return None
    hook, hook_out = (
        text_or_none(config.get(key), path, key) for key in ("hook_point_in", "hook_point_out")
    )
    of_model = path.with_name(LM_CONFIG)
    model = read_config(of_model).get("model_name") if of_model.is_file() else None
    return Declaration(
        text_or_none(model, of_model, "model_name"), hook, hook_out if hook_out != hook else None
    )


def unwrapped(opened: Opened) -> Opened:
    """The checkpoint without what OpenMOSS puts around the state dict of a ``.pt`` file."""
    inner = opened.entries.get("sae")
    if set(opened.entries) != {"sae", "version"} or not isinstance(inner, Mapping):
        return opened
    return replace(opened, entries={str(name): value for name, value in inner.items()})


def config_of(opened: Opened, fields: set[str]) -> Config:
    """The config, of which every field is known; raises `LoadError`."""
    if opened.config_file is None or opened.config is None:
        raise LoadError(
            f"{opened.path}: an OpenMOSS checkpoint without its config, which alone says the "
            "activation function and the normalisation"
        )
    config = Config(opened.config, opened.config_file)
    if config.values.get("sae_type", "sae") not in _TYPES:
        raise LoadError(
            f"{config.path}: sae_type is {config.values['sae_type']!r}, read so far: "
            f"{', '.join(_TYPES)}"
        )
    unknown = sorted(config.values.keys() - fields)
    if unknown:
        raise LoadError(
            f"{config.path}: {', '.join(f'{n} = {config.values[n]!r}' for n in unknown)}: not "
            f"understood; allowed: {', '.join(sorted(fields))}",
            "keys",
        )
    glu = sorted(name for name in opened.entries if "_glu" in name)
    if glu or config.flag("use_glu_encoder", default=False):
        raise LoadError(
            f"{config.path}: use_glu_encoder with {', '.join(glu) or 'no tensors'}: encoders with "
            "a gated linear unit are not read"
        )
    return config


def architecture_of(config: Config) -> str:
    """The activation family; raises `LoadError` where it takes the batch together."""
    name = config.text("act_fn").lower()
    if "batch" in name:
        raise LoadError(
            f"{config.path}: act_fn is {name!r}: which latents a token activates depends on its "
            "batch, and no threshold is stored",
            "batch_mates",
        )
    if name not in _ARCHITECTURES:
        raise LoadError(
            f"{config.path}: act_fn is {name!r}, allowed: {', '.join(_ARCHITECTURES)}", "activation"
        )
    return _ARCHITECTURES[name]


def k_of(config: Config, architecture: str) -> int | None:
    """How many latents a TopK SAE keeps; ``top_k`` of the others is of the training."""
    if architecture != "topk":
        return None
    k = config.number("top_k")
    if not isinstance(k, int):
        raise LoadError(f"{config.path}: top_k is {k!r}, expected a whole number", "activation")
    return k


def biased(opened: Opened, config: Config) -> bool:
    """Whether there is a decoder bias, by the config, or by the tensors if it does not say."""
    stored = not {"b_D", "decoder.bias"}.isdisjoint(opened.entries)
    return config.flag("use_decoder_bias", default=stored)


def tensors_of(opened: Opened, config: Config) -> dict[str, Tensor]:
    """The weights under canonical names, with zeros for a decoder bias that there is not."""
    tensors = renamed(
        {n: t for n, t in opened.tensors.items() if not n.startswith(f"{NORM}.")}, _NAMES
    )
    if not biased(opened, config):
        if "b_dec" in tensors:
            raise LoadError(
                f"{config.path}: use_decoder_bias is false, but {opened.weights.name} has a "
                "decoder bias",
                "keys",
            )
        W_dec = tensors.get("W_dec")
        if W_dec is not None and W_dec.ndim == 2:
            tensors["b_dec"] = W_dec.new_zeros(W_dec.shape[1])
    return tensors


def finish(
    opened: Opened,
    config: Config,
    tensors: Mapping[str, Tensor],
    facts: Facts,
    options: SaeOptions,
    source: SaeSource,
) -> SAE:
    """The SAE, if the options and the sizes in its config agree with it; raises `LoadError`."""
    check_agreement(facts, options, config.path)
    sae = assemble(tensors, facts, source, opened.weights)
    d_model = config.d_model
    stated = config.values.get("d_sae") is not None  # only by lm_saes 1
    d_sae = config.number("d_sae") if stated else d_model * config.number("expansion_factor")
    sizes = (("d_model", d_model, sae.d_in), ("d_model", d_model, sae.d_out))
    for name, said, found in (*sizes, ("d_sae", d_sae, sae.d_sae)):
        if abs(said - found) > 1e-6:
            raise LoadError(
                f"{config.path}: {name} is {said:g}, but {opened.weights.name} has {found}",
                "shapes",
            )
    return sae


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
                options=("scale",),
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
                options=("scale",),
            )
        return 1.0, 1.0
    if said == "folded" and may_be_folded:
        return 1.0, 1.0
    if said == "folded":
        raise LoadError(
            f"{config.path}: norm_activation is 'dataset-wise', and OpenMOSS folded no scale into "
            "weights of this form; the `sae` options say scale 'folded'",
            "scale",
            options=("scale",),
        )
    if isinstance(said, float):
        return _said(said, config, norms, may_be_folded=may_be_folded)
    scale_in, scale_out = (norm.factor(config) for norm in norms)
    if said is None and may_be_folded:
        stored = (
            "stored (norm_activation is 'dataset-wise': the input is multiplied by "
            f"{scale_in:.6g} and the reconstruction divided by {scale_out:.6g})"
        )
        folded = (
            "folded (the weights hold it already: what a run of OpenMOSS saves at its end since "
            "2026-04, under the same config)"
        )
        subject = f"{config.path} is ambiguous"
        raise ambiguous(subject, "scale", ("scale", stored), ("scale", folded))
    return scale_in, scale_out


def _said(
    scale: float, config: Config, norms: tuple[Norm, Norm], *, may_be_folded: bool
) -> tuple[float, float]:
    if config.transcoder:
        raise LoadError(
            f"{config.path}: a transcoder has a scale of its input and one of its output; the "
            f"`sae` options say one, {scale:g}",
            "scale",
            options=("scale",),
        )
    stored = norms[0].factor(config) if norms[0].measured else scale
    if abs(scale / stored - 1) > _NEAR and not (may_be_folded and scale == 1):
        raise LoadError(
            f"{config.path} has scale {stored:g}, the `sae` options say {scale:g}",
            "scale",
            options=("scale",),
        )
    return scale, scale
