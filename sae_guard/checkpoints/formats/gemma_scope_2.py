"""Gemma Scope 2: ``params.safetensors`` with JumpReLU SAEs and transcoders of Gemma 3.

SAELens, `gemma_3_sae_huggingface_loader` in
https://github.com/decoderesearch/SAELens/blob/main/sae_lens/loading/pretrained_sae_loaders.py. No
pre-bias; the normalisation of the training is folded in; a skip connection is [d_in, d_out].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, check_sizes
from sae_guard.checkpoints.declarations import (
    Declaration,
    check_known,
    components,
    last_match,
    text_or_none,
)
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import ConfigLocation, FolderLayout, Format, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_KEYS = {"w_enc": "W_enc", "w_dec": "W_dec"}
_SKIP = "affine_skip_connection"
_FOLDED = "b_dec is not taken off the input, and the normalisation is folded in, as released"
_FIELDS = {
    "architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out", "affine_connection",
    "type", "width", "l0",
}  # fmt: skip
_TYPES = {"sae": False, "transcoder": True}
_WEIGHTS = "params.safetensors"
_REPOSITORY = r"gemma-scope-2-([^-]+)-(pt|it)"
_SITES = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}
_MODULES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_attention_layernorm.output": "hook_attn_out",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Hook point of each module in transformers. `mlp.output` is not among them: a norm follows it
in Gemma before hook_mlp_out, which is added to the residual stream."""


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read model and hook points from the config, or from the path where the config is missing.

    Raises:
        LoadError: The name of the model is no text.
    """
    if files.weights.name != _WEIGHTS:
        return None
    if files.config is None or files.config_file is None:
        return by_names(files.weights) or Declaration()
    model = text_or_none(files.config.get("model_name"), files.config_file, "model_name")
    model = _model_name(model) if model else None
    read, written = (files.config.get(f"hf_hook_point_{side}") for side in ("in", "out"))
    hook, out = _hook(read), _hook(written)
    if written is None or written == read:
        return Declaration(model, hook)
    return Declaration(model, hook, out) if hook and out else Declaration(model)


def by_names(weights: Path) -> Declaration | None:
    """Read ``gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_small/params.safetensors``."""
    folders = components(weights)
    at, repository = last_match(_REPOSITORY, folders)
    _, site = last_match(r"(resid_post|attn_out|mlp_out|transcoder)(?:_all)?", folders[at:])
    _, layer = last_match(r"layer_(\d+)(?:_.*)?", folders[at:])
    if repository is None or site is None or layer is None:
        return None
    model = _model_name(f"gemma-3-{repository[1]}-{repository[2]}")
    block = f"blocks.{layer[1]}"
    if site[1] == "transcoder":
        return Declaration(model, f"{block}.mlp.hook_in", f"{block}.hook_mlp_out")
    return Declaration(model, f"{block}.{_SITES[site[1]]}")


def _model_name(name: str) -> str:
    """Return the model's name on the hub: configs write v3, and the smallest has no ``-pt``."""
    name = name.replace("gemma-v3", "gemma-3")
    return name.removesuffix("-pt") if "270m" in name else name


def _hook(hf_name: Any) -> str | None:
    """Return the hook point of a module in transformers; None where none is certain."""
    match = re.fullmatch(
        r"model\.(?:language_model\.)?layers\.(\d+)\.(\S+)",
        hf_name if isinstance(hf_name, str) else "",
    )
    site = _MODULES.get(match[2]) if match else None
    return f"blocks.{match[1]}.{site}" if match and site else None


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE or transcoder of a ``params.safetensors``, with or without ``config.json``.

    Raises:
        LoadError: The config names another architecture or contradicts itself or the tensors, or
            the file does not have the tensors of a JumpReLU SAE.
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
    settings = ForwardSettings("jumprelu", pre_bias=False, transcoder=transcoder)
    assumed = (_FOLDED,) if assumption is None else (_FOLDED, assumption)
    source = opened.source("Gemma Scope 2", *assumed, declaration=declare(opened))
    sae = assemble(tensors, settings, source, opened.weights)
    check_sizes(opened.config or {}, {"width": sae.d_sae}, path)
    return sae


def _by_path(weights: Path, skip: Tensor | None) -> tuple[bool, str]:
    """Return whether the SAE is a transcoder, and the assumption behind it."""
    declaration = by_names(weights)
    if declaration is not None:
        transcoder = declaration.hook_out is not None
        kind = "a transcoder" if transcoder else "an SAE"
        return transcoder, f"{kind}, by the names of its folders"
    if skip is not None:
        return True, "a transcoder, as it has a skip connection"
    return False, "an SAE and no transcoder, as there is no config and nothing says otherwise"


def _by_config(config: Mapping[str, Any], path: Path) -> bool:
    check_known(config, _FIELDS, path)
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
            f"{path}: type is {kind!r}, but hf_hook_point_in is {read!r} and hf_hook_point_out is "
            f"{written!r}; allowed: the same for an SAE, two for a transcoder",
            "metadata",
        )
    return transcoder


FORMAT = Format(
    name="Gemma Scope 2",
    recognised_by="`params.safetensors`, or the keys `w_enc`, `w_dec` and `threshold`",
    holds="jumprelu SAEs and transcoders, with or without a skip connection",
    folders=(FolderLayout("config.json", _WEIGHTS), FolderLayout(None, _WEIGHTS)),
    config_locations=(ConfigLocation("config.json", rf".*/{re.escape(_WEIGHTS)}"),),
    declare=declare,
    declares_first=True,
    matches=lambda opened: (
        opened.weights.suffix == ".safetensors"
        and {"w_enc", "w_dec", "threshold"} <= opened.entries.keys()
    ),
    read=read,
)
