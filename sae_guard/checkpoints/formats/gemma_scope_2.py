"""Gemma Scope 2: ``params.safetensors`` with JumpReLU SAEs and transcoders of Gemma 3.

SAELens, `gemma_3_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py. No
pre-bias; the normalisation of the training is folded in; a skip connection lies as [d_in, d_out].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_guard.checkpoints import released
from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_KEYS = {"w_enc": "W_enc", "w_dec": "W_dec"}
_SKIP = "affine_skip_connection"
_FOLDED = "b_dec is not taken off the input, and the normalisation is folded in, as released"
_FIELDS = {
    "architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out", "affine_connection",
    "type", "width", "l0",
}  # fmt: skip
_TYPES = {"sae": False, "transcoder": True}


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE or transcoder of a ``params.safetensors``, with or without its ``config.json``.

    Raises:
        LoadError: The config names another architecture or contradicts itself or the tensors, or
            the tensors are not those of a JumpReLU SAE.
    """
    tensors = {_KEYS.get(name, name): tensor for name, tensor in opened.tensors.items()}
    skip = tensors.pop(_SKIP, None)
    path = opened.config_file or opened.weights
    if opened.config is None:
        transcoder, assumption = _by_path(opened.weights, skip)
    else:
        transcoder, assumption = _by_config(opened.config, path), None
        affine = opened.config.get("affine_connection")
        if affine is not None and affine != (skip is not None):
            raise LoadError(
                f"{path}: affine_connection is {affine!r}, but {_SKIP} is "
                f"{'missing from' if skip is None else 'in'} {opened.weights}",
                "keys",
            )
    if skip is not None:
        tensors["W_skip"] = skip.T.contiguous() if skip.ndim == 2 else skip
    facts = Facts("jumprelu", None, pre_bias=False, normalize="none", transcoder=transcoder)
    check_agreement(facts, options, path)
    assumed = (_FOLDED,) if assumption is None else (_FOLDED, assumption)
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("Gemma Scope 2", *assumed, **said)
    sae = assemble(tensors, facts, source, opened.weights)
    _check_width(sae, opened.config or {}, path)
    return sae


def _by_path(weights: Path, skip: Tensor | None) -> tuple[bool, str]:
    """Whether it is a transcoder, and how that is known."""
    release = released.gemma_scope_2(weights)
    if release is not None:
        kind = "a transcoder" if release.transcoder else "an SAE"
        return release.transcoder, f"{kind}, by the names of its folders"
    if skip is not None:
        return True, "a transcoder, as it has a skip connection"
    return False, "an SAE and no transcoder, as there is no config and nothing says otherwise"


def _by_config(config: Mapping[str, Any], path: Path) -> bool:
    unknown = sorted(config.keys() - _FIELDS)
    if unknown:
        raise LoadError(f"{path}: {', '.join(unknown)}: not understood; allowed: {sorted(_FIELDS)}")
    if config.get("architecture") != "jump_relu":
        raise LoadError(
            f"{path}: architecture is {config.get('architecture')!r}, allowed: 'jump_relu'",
            "activation",
        )
    read, written = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    for name, value in (("hf_hook_point_in", read), ("hf_hook_point_out", written)):
        if value is not None and not isinstance(value, str):
            raise LoadError(f"{path}: {name} is {value!r}, expected text")
    transcoder, kind = written is not None and written != read, config.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
        raise LoadError(f"{path}: type is {kind!r}, allowed: {', '.join(_TYPES)}")
    if kind is not None and _TYPES[kind] != transcoder:
        raise LoadError(
            f"{path}: type is {kind!r}, but it reads {read!r} and writes {written!r}", "metadata"
        )
    return transcoder


def _check_width(sae: SAE, config: Mapping[str, Any], path: Path) -> None:
    if config.get("width", sae.d_sae) != sae.d_sae:
        raise LoadError(
            f"{path}: width is {config['width']!r}, but the weights have {sae.d_sae}", "shapes"
        )


FAMILY = Family(
    "Gemma Scope 2",
    recognised_by="`params.safetensors`, or the keys `w_enc`, `w_dec` and `threshold`",
    holds="jumprelu SAEs and transcoders, with or without a skip connection",
    matches=lambda opened: (
        opened.weights.suffix == ".safetensors"
        and {"w_enc", "w_dec", "threshold"} <= opened.entries.keys()
    ),
    read=read,
)
