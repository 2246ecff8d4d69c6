"""EleutherAI sparsify: ``cfg.json`` beside ``sae.safetensors``, a folder per hook point.

https://github.com/EleutherAI/sparsify, `sparse_coder.py` and `fused_encoder.py`. SAEs and
transcoders, each with or without a skip connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, check_sizes, renamed
from sae_guard.checkpoints.declarations import (
    Declaration,
    check_known,
    flag,
    has_post_norms,
    text_or_none,
)
from sae_guard.checkpoints.files import CheckpointFiles, read_config
from sae_guard.checkpoints.format import FolderLayout, Format, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}  # W_dec is [d_sae, d_in] already
_FIELDS = {
    "activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk",
    "skip_connection", "transcode", "signed", "d_in",
}  # fmt: skip
_BRANCHES = {
    "log_threshold": "a jump or binary activation",
    "W_dec_2": "a second decoder (matching pursuit)",
}
"""Tensors that only branches of the repository write, and the features they belong to."""


_SITES = {"": "hook_resid_post", "mlp": "hook_mlp_out"} | dict.fromkeys(
    ("attn", "self_attn", "attention"), "hook_attn_out"
)
_SITES_IN = {"hook_resid_post": "hook_resid_pre", "hook_mlp_out": "mlp.hook_in"}
"""Replaced hook point → hook point that a transcoder reads."""


def matches(files: CheckpointFiles) -> bool:
    """Recognise the format by the name of the weights."""
    return files.weights.name == "sae.safetensors" and files.config_file is not None


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read the hook point from the name of the folder, and the model from the config of the run.

    The folder has the name of the module; a folder for the seed may lie in it.

    Raises:
        LoadError: The config of the run, which names the model, is unreadable.
    """
    if not matches(files):
        return None
    folder = files.weights.parent
    folder = folder.parent if re.fullmatch(r"seed\d+", folder.name) else folder
    run = folder.parent / "config.json"
    model = read_config(run).get("model") if run.is_file() else None
    model = text_or_none(model, run, "model")
    match = re.fullmatch(r"(?:layers|h)\.(\d+)(?:\.(\w+))?", folder.name)
    module = (match[2] or "") if match else None
    site = _SITES.get(module) if module is not None else None
    # With a norm after the module, its output is not what `site` has.
    if match is None or site is None or (module and has_post_norms(model)):
        return Declaration(model)
    block = f"blocks.{match[1]}"
    if not (files.config or {}).get("transcode"):
        return Declaration(model, f"{block}.{site}")
    site_in = _SITES_IN.get(site)
    if site_in is None:  # a transcoder declares both hook points, or none
        return Declaration(model)
    return Declaration(model, f"{block}.{site_in}", f"{block}.{site}")


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE or transcoder of a sparsify folder.

    Raises:
        LoadError: An unmerged branch wrote it, the decoder is missing, or the config has a field
            that is unknown or that the tensors contradict.
    """
    path, config = opened.config_file, opened.config
    if path is None or config is None:
        raise LoadError(f"{opened.path}: a sparsify folder without its config, expected cfg.json")
    tensors = opened.tensors
    _check_kind(tensors, opened.weights)
    transcode, skip = (flag(config, name, path) for name in ("transcode", "skip_connection"))
    settings = _settings(config, path, transcode=transcode)
    if skip != ("W_skip" in tensors):
        verb = "has" if "W_skip" in tensors else "does not have"
        raise LoadError(
            f"{path}: skip_connection is {skip}, but {opened.weights} {verb} W_skip", "keys"
        )
    assumption = (
        "b_dec is not taken off the input of a transcoder, as sparsify does"
        if transcode
        else "b_dec is taken off the input, as sparsify does since 2024"
    )
    source = opened.source("sparsify", assumption, declaration=declare(opened))
    # `assemble` allows W_skip only in transcoders, but here SAEs may have a skip connection too.
    assembled_as = replace(settings, transcoder=True) if skip else settings
    sae = replace(
        assemble(renamed(tensors, _LINEAR), assembled_as, source, opened.weights),
        transcoder=transcode,
    )
    check_sizes(config, {"d_in": sae.d_in}, path)
    check_sizes(config, {"d_in": sae.d_out}, path)  # d_in is the width of input and output
    if config.get("num_latents"):  # 0: given by the expansion factor
        check_sizes(config, {"num_latents": sae.d_sae}, path)
    return sae


def _check_kind(tensors: Collection[str], path: Path) -> None:
    for name in tensors:
        branch = _BRANCHES.get(name.partition(".")[0])
        if branch is not None:
            raise LoadError(f"{path}: {name} belongs to {branch}, which is not read", "keys")
    if "W_dec" not in tensors:
        raise LoadError(
            f"{path}: no W_dec: an encoder without a decoder reconstructs nothing; save both",
            "keys",
        )


def _settings(config: Mapping[str, Any], path: Path, *, transcode: bool) -> ForwardSettings:
    check_known(config, _FIELDS, path)
    signed = flag(config, "signed", path)
    activation, k = config.get("activation", "topk"), config.get("k")
    if activation not in ("topk", "groupmax") or (signed and activation != "topk"):
        raise LoadError(
            f"{path}: activation is {activation!r}, allowed: 'topk' or 'groupmax', and with "
            "signed only 'topk'",
            "activation",
        )
    if type(k) is not int:
        raise LoadError(f"{path}: k is {k!r}, expected a whole number", "activation")
    return ForwardSettings(
        "abstopk" if signed else str(activation), k, pre_bias=not transcode, transcoder=transcode
    )


FORMAT = Format(
    name="sparsify",
    recognised_by="a folder with `cfg.json` and `sae.safetensors`",
    holds="topk (also signed, as abstopk) and groupmax SAEs and transcoders, each with or without "
    "a skip connection",
    folders=(FolderLayout("cfg.json", "sae.safetensors", rank=-1),),
    configs_above=("config.json",),
    declare=declare,
    matches=matches,
    read=read,
)
