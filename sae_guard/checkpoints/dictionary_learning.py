"""dictionary_learning: ``ae.pt``, whose class stands in ``config.json`` or in its keys.

https://github.com/saprmarks/dictionary_learning, `dictionary.py` and `trainers/`. Activations are
not normalised at inference: the trainer folds its factor in before it saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError, allowed
from sae_guard.sae import SAE

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}


@dataclass(frozen=True)
class _Class:
    """One of the library's classes: what it computes, and what it calls tensors differently."""

    architecture: str
    pre_bias: bool
    names: Mapping[str, str]
    unused: frozenset[str] = frozenset()
    """Tensors that inference does not read."""


CLASSES: Mapping[str, _Class] = {
    "AutoEncoder": _Class("standard", pre_bias=True, names={**_LINEAR, "bias": "b_dec"}),
    "AutoEncoderNew": _Class(
        "standard", pre_bias=False, names={**_LINEAR, "decoder.bias": "b_dec"}
    ),
    "GatedAutoEncoder": _Class(
        "gated",
        pre_bias=True,
        names={
            "encoder.weight": "W_enc",
            "decoder.weight": "W_dec",
            "decoder_bias": "b_dec",
            "gate_bias": "b_gate",
            "mag_bias": "b_mag",
        },
    ),
    "JumpReluAutoEncoder": _Class("jumprelu", pre_bias=False, names={}),
    "AutoEncoderTopK": _Class(
        "topk",
        pre_bias=True,
        names={**_LINEAR, "decoder": "W_dec"},
        unused=frozenset({"threshold"}),
    ),
    "BatchTopKSAE": _Class("jumprelu", pre_bias=True, names=_LINEAR),
    "MatryoshkaBatchTopKSAE": _Class(
        "jumprelu", pre_bias=True, names={}, unused=frozenset({"group_sizes", "group_indices"})
    ),
}


def matches(opened: Opened) -> bool:
    """By the config, or by keys that no other library uses."""
    if isinstance((opened.config or {}).get("trainer"), dict) or "ae" in opened.entries:
        return True
    return bool(_by_keys(opened.entries.keys()))


def _by_keys(keys: Any) -> list[str]:
    """The classes that save these keys."""
    keys = set(keys)
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


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of an ``ae.pt`` or ``ae_STEP.pt``, with or without its ``config.json``.

    Raises:
        LoadError: The class is unknown or not decided, a threshold was never trained, an option
            contradicts the file, or the file is the backup of an interrupted run.
    """
    if "ae" in opened.entries:
        raise LoadError(
            f"{opened.weights}: the backup of an interrupted run (it holds "
            f"{', '.join(map(repr, opened.entries))}), whose weights expect activations divided by "
            "norm_factor; gate the `ae.pt` of the finished run"
        )
    trainer = (opened.config or {}).get("trainer", {})
    name = _class_name(opened, trainer, options)
    chosen = CLASSES[name]
    tensors = opened.tensors
    k = _k(tensors, trainer, options, opened) if chosen.architecture == "topk" else None
    facts = Facts(chosen.architecture, k, chosen.pre_bias, "none")
    check_agreement(facts, options, opened.weights)
    assumed = () if "dict_class" in trainer else (f"the class is {name}, by the keys",)
    source = opened.source(
        f"dictionary_learning {name}",
        *assumed,
        model_name=trainer.get("lm_name"),
        layer=trainer.get("layer"),
    )
    return assemble(_canonical(tensors, chosen), facts, source, opened.weights)


def _class_name(opened: Opened, trainer: Mapping[str, Any], options: SaeOptions) -> str:
    said = trainer.get("dict_class")
    if said is not None:
        if said not in CLASSES:
            raise LoadError(
                f"{opened.config_file}: trainer.dict_class is {said!r}; "
                f"{allowed(str(said), CLASSES)}"
            )
        return str(said)
    candidates = _by_keys(opened.entries)
    fitting = [c for c in candidates if options.architecture in (None, CLASSES[c].architecture)]
    if len(fitting) == 1:
        return fitting[0]
    if not candidates:
        raise LoadError(f"{opened.config_file}: no trainer.dict_class, and the keys do not tell")
    listed = "".join(f"\n  sae.architecture: {CLASSES[c].architecture} ({c})" for c in candidates)
    raise LoadError(
        f"{opened.weights} is ambiguous without its config.json; decide in the spec:{listed}"
    )


def _k(
    tensors: Mapping[str, Tensor], trainer: Mapping[str, Any], options: SaeOptions, opened: Opened
) -> int:
    """The buffer's, since k may be annealed; files of 2024 have none."""
    k = int(tensors["k"]) if "k" in tensors else trainer.get("k", options.k)
    if type(k) is not int:
        raise LoadError(
            f"{opened.weights} is ambiguous; decide in the spec:\n  sae.k: a whole number"
        )
    return k


def _canonical(tensors: Mapping[str, Tensor], chosen: _Class) -> dict[str, Tensor]:
    used = {n: t for n, t in tensors.items() if n != "k" and n not in chosen.unused}
    canonical = renamed(used, chosen.names)
    d_sae = canonical["W_dec"].shape[0] if "W_dec" in canonical else 0
    if "threshold" in canonical and canonical["threshold"].ndim == 0:
        canonical["threshold"] = canonical["threshold"].expand(d_sae)
    if chosen.architecture == "gated" and "r_mag" not in canonical:  # saved since May 2024
        canonical["r_mag"] = torch.zeros(d_sae)
    return canonical


FAMILY = Family(
    "dictionary_learning",
    recognised_by="`ae.pt` with `config.json` (`trainer.dict_class`), or the keys of its classes",
    holds=f"{', '.join(CLASSES)}; without a config, TopK and BatchTopK have the same keys and "
    "architecture (topk or jumprelu) has to be said",
    matches=matches,
    read=read,
)
