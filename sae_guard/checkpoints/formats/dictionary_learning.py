"""dictionary_learning: ``ae.pt``, whose class follows from ``config.json`` or from its keys.

https://github.com/saprmarks/dictionary_learning, `dictionary.py`, `trainers/` and `training.py`.
Activations are not normalised at inference: the trainer folds its factor into the weights before
it saves. Backups of a run in progress store the factor instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import Declaration, text_or_none
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import ConfigLocation, FolderLayout, Format, Opened, is_tensor
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.errors import LoadError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}


@dataclass(frozen=True)
class _Class:
    """A class of the library: its forward pass, and its names of tensors."""

    architecture: str
    names: Mapping[str, str]
    """Stored name → canonical name, where they differ."""
    unused: Collection[str] = ()
    """Tensors that inference does not read."""
    pre_bias: bool = True


_GATED = {
    "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec",
    "gate_bias": "b_gate", "mag_bias": "b_mag",
}  # fmt: skip
CLASSES: Mapping[str, _Class] = {
    "AutoEncoder": _Class("standard", {**_LINEAR, "bias": "b_dec"}),
    "AutoEncoderNew": _Class("standard", {**_LINEAR, "decoder.bias": "b_dec"}, pre_bias=False),
    "GatedAutoEncoder": _Class("gated", _GATED),
    "JumpReluAutoEncoder": _Class("jumprelu", {}, pre_bias=False),
    "AutoEncoderTopK": _Class("topk", {**_LINEAR, "decoder": "W_dec"}, ("threshold",)),
    "BatchTopKSAE": _Class("jumprelu", _LINEAR),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", {}, ("group_sizes", "group_indices")),
}


def matches(opened: Opened) -> bool:
    """Recognise the format by the config, or by keys that no other library uses."""
    if isinstance((opened.config or {}).get("trainer"), dict) or "ae" in opened.entries:
        return True
    return bool(_by_keys(opened.entries.keys()))


def _by_keys(keys: Any) -> list[str]:
    """Return the names of the classes that save these keys."""
    keys = set(keys)
    # From the keys of one class only to those that two classes have.
    if {"decoder_bias", "gate_bias", "mag_bias"} <= keys:
        return ["GatedAutoEncoder"]
    if {"group_sizes", "group_indices"} & keys:
        return ["MatryoshkaBatchTopKSAE"]
    if {"bias", "encoder.weight", "decoder.weight"} <= keys:
        return ["AutoEncoder"]
    if {"b_dec", "encoder.weight", "decoder"} <= keys:
        return ["AutoEncoderTopK"]
    if {"b_dec", "encoder.weight", "decoder.weight"} <= keys:
        return ["AutoEncoderTopK", "BatchTopKSAE"]
    return []


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read the model and the layer, whose output is the residual stream after it.

    A config that names another submodule, or trains on an input, gives no hook point.

    Raises:
        LoadError: The name of the model is no text.
    """
    config, path = files.config or {}, files.config_file or files.weights
    if "trainer" not in config:
        return None
    trainer, buffer = config.get("trainer"), config.get("buffer")
    trainer = trainer if isinstance(trainer, dict) else {}
    layer, submodule = trainer.get("layer"), trainer.get("submodule_name")
    reads_output = not isinstance(buffer, dict) or buffer.get("io", "out") == "out"
    residual = submodule is None or re.fullmatch(rf"resid_post(_layer_{layer})?", str(submodule))
    hook = f"blocks.{layer}.hook_resid_post" if type(layer) is int and residual else None
    model = text_or_none(trainer.get("lm_name"), path, "trainer.lm_name")
    return Declaration(model, hook if reads_output else None)


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of an ``ae.pt`` or ``ae_STEP.pt``, with or without its ``config.json``.

    Raises:
        LoadError: The class is unknown or ambiguous, a threshold was never trained, an option
            contradicts the file, or the factor of a backup is ambiguous.
    """
    trainer, scale = _object(opened, opened.config or {}, "trainer"), 1.0
    backup = "ae" in opened.entries
    if backup:
        own = _object(opened, opened.entries, "config")
        classes = {str(config["dict_class"]) for config in (trainer, own) if "dict_class" in config}
        if len(classes) > 1:
            raise LoadError(
                f"{opened.weights}: dict_class is {own['dict_class']!r}, but "
                f"{trainer['dict_class']!r} in {opened.config_file}; allowed: the same in both",
                "activation",
            )
        trainer = trainer | own
        scale = _scale(opened, options)
        opened = replace(opened, entries=_object(opened, opened.entries, "ae"))
    name = _class_name(opened, trainer, options)
    sae_class = CLASSES[name]
    tensors = opened.tensors
    k = _k(tensors, trainer, options, opened) if sae_class.architecture == "topk" else None
    buffer = _object(opened, opened.config or {}, "buffer")
    settings = ForwardSettings(
        sae_class.architecture,
        k,
        pre_bias=sae_class.pre_bias,
        scale_in=scale,
        scale_out=scale,
        transcoder=buffer.get("io") == "in_and_out",
    )
    assumed = () if "dict_class" in trainer else (f"the class is {name}, by the keys",)
    source = opened.source(
        f"dictionary_learning {name}" + (" backup" if backup else ""),
        *assumed,
        model_name=trainer.get("lm_name"),
        layer=trainer.get("layer"),
    )
    return assemble(_canonical(tensors, sae_class), settings, source, opened.weights)


def _object(opened: Opened, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key, {})
    if not isinstance(value, Mapping):
        path = opened.config_file if values is opened.config else opened.weights
        raise LoadError(f"{path}: {key} is a {type(value).__name__}, expected an object")
    return {str(name): item for name, item in value.items()}


def _scale(opened: Opened, options: SaeOptions) -> float:
    """Return the factor of a backup's input: 1 / norm_factor, or 1 where it is folded in.

    Backups of an interrupted run have an optimizer and are not folded. A fork of the library saves
    its finished SAEs in the same form without an optimizer, with the factor folded in.
    """
    factor, path = opened.entries.get("norm_factor"), opened.weights
    if is_tensor(factor) and factor.numel() == 1:
        factor = factor.item()
    if factor is None:
        if "norm_factor" in opened.entries or options.scale == "folded":
            return 1.0
        if isinstance(options.scale, float):
            return options.scale
        raise ambiguous(
            f"{path} is ambiguous: it is a backup of an interrupted run, without norm_factor",
            "scale",
            ("scale", "folded (activations were not normalised)"),
            ("scale", "1 / norm_factor"),
        )
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not math.isfinite(factor) or factor <= 0:
        raise LoadError(f"{path}: norm_factor is {factor!r}, allowed: a number above 0", "scale")
    unfolded = 1 / float(factor)
    if "optimizer" in opened.entries:
        if options.scale == "folded":
            raise LoadError(
                f"{path}: the backup of an interrupted run, whose weights expect activations "
                f"divided by norm_factor {factor:g}, the `sae` options say folded; allowed: stored",
                "scale",
                options=("scale",),
            )
        return unfolded
    if options.scale is None:
        raise ambiguous(
            f"{path} is ambiguous: it has norm_factor {factor:g} and no optimizer state, so it is "
            "not known whether biases and thresholds include the factor",
            "scale",
            ("scale", "folded (they do, as at the end of training)"),
            ("scale", "stored (they do not: activations are divided by it)"),
        )
    return 1.0 if options.scale == "folded" else unfolded


def _class_name(opened: Opened, trainer: Mapping[str, Any], options: SaeOptions) -> str:
    name = trainer.get("dict_class")
    if name is not None:
        if not isinstance(name, str) or name not in CLASSES:
            raise LoadError(
                f"{opened.config_file or opened.weights}: trainer.dict_class is {name!r}; "
                f"{allowed(str(name), CLASSES)}",
                "activation",
            )
        return name
    candidates = _by_keys(opened.entries)
    fitting = [c for c in candidates if options.architecture in (None, CLASSES[c].architecture)]
    if len(fitting) == 1:
        return fitting[0]
    if not candidates:
        raise LoadError(
            f"{opened.config_file or opened.weights}: trainer.dict_class is missing, and the keys "
            f"of the weights are of no known class; allowed: {', '.join(CLASSES)}",
            "keys",
        )
    subject = f"{opened.weights} is ambiguous without its config.json"
    choices = [f"{CLASSES[name].architecture} ({name})" for name in candidates]
    raise ambiguous(subject, "activation", *(("architecture", choice) for choice in choices))


def _k(
    tensors: Mapping[str, Tensor], trainer: Mapping[str, Any], options: SaeOptions, opened: Opened
) -> int:
    """Return the k stored with the weights, since k may be annealed; files of 2024 have none."""
    stored = tensors.get("k")
    if stored is not None and stored.numel() != 1:
        raise LoadError(
            f"{opened.weights}: k has shape {list(stored.shape)}, expected []", "shapes"
        )
    k = int(stored) if stored is not None else trainer.get("k", options.k)
    if type(k) is not int:
        raise ambiguous(f"{opened.weights} is ambiguous", "activation", ("k", "a whole number"))
    return k


def _canonical(tensors: Mapping[str, Tensor], sae_class: _Class) -> dict[str, Tensor]:
    import torch

    used = {n: t for n, t in tensors.items() if n != "k" and n not in sae_class.unused}
    canonical = renamed(used, sae_class.names)
    d_sae = canonical["W_dec"].shape[0] if "W_dec" in canonical else 0
    if "threshold" in canonical and canonical["threshold"].ndim == 0:
        canonical["threshold"] = canonical["threshold"].expand(d_sae)
    if sae_class.architecture == "gated" and "r_mag" not in canonical:  # saved since May 2024
        canonical["r_mag"] = torch.zeros(d_sae)
    return canonical


FORMAT = Format(
    name="dictionary_learning",
    recognised_by="`ae.pt` with `config.json` (`trainer.dict_class`), or the keys of its classes",
    holds=f"{', '.join(CLASSES)}, and backups of interrupted runs; without a config, TopK and "
    "BatchTopK have the same keys and need the option architecture (topk or jumprelu)",
    folders=(FolderLayout("config.json", "ae.pt"),),
    config_locations=(
        ConfigLocation("config.json", r".*/ae(_\d+)?\.pt", levels_up=(0, 1), rank=1),
    ),
    declare=declare,
    matches=matches,
    read=read,
)
