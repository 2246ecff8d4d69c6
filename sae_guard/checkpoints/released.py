"""What the folders and files of released checkpoints are called says of them; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_GEMMA_SCOPE = r"gemma-scope-([^-]+)-(pt|it)-(res|mlp|att|transcoders)(?:-canonical)?"
_GEMMA_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_GEMMA_SCOPE_2 = r"gemma-scope-2-([^-]+)-(pt|it)"
_GEMMA_2_SITES = {
    "resid_post": "hook_resid_post",
    "attn_out": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
}
_GEMMA_3_MODULES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_attention_layernorm.output": "hook_attn_out",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""What is added to the residual stream in Gemma has passed a norm: `mlp.output` is another thing
than hook_mlp_out, and so it is not among these."""
_OPENAI_LOCATIONS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
}
_TRANSCODERS = r"(?i:.+-\d[\d.]*[bm](?:-.+)?-transcoders(?:-.+)?)"
"""Repositories such as `qwen3-4b-transcoders` and `qwen3-0.6b-transcoders-lowl0`."""
_CIRCUIT_TRACER_INPUTS = ("mlp.hook_in", "ln2.hook_normalized", "hook_resid_mid")
_POST_NORM = re.compile(r"gemma-?[23]|olmo-?[23]|glm-?4", re.IGNORECASE)


@dataclass(frozen=True)
class Release:
    """What a path says; None and false where it does not say."""

    model_name: str | None = None
    hook: str | None = None
    hook_out: str | None = None
    """What a transcoder replaces."""
    transcoder: bool = False
    embedding: bool = False
    k: int | None = None


def components(weights: Path) -> tuple[str, ...]:
    """The names of the folders and of the file, without ``models--organisation--`` of a cache.

    Links between folders are followed; in the cache of the hub the files themselves are links into
    a folder that says nothing.
    """
    named = (*weights.parent.resolve().parts, weights.name)
    return tuple(re.sub(r"^models--.+?--", "", part) for part in named)


def by_path(weights: Path) -> Release:
    """What the path of weights without a config says."""
    if weights.suffix == ".npz":
        return gemma_scope(weights)
    for recognise in (qwen_scope, openai, named_by_layer):
        found = recognise(weights)
        if found is not None:
            return found
    return Release()


def gemma_scope(weights: Path) -> Release:
    """``gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz``."""
    names = components(weights)
    at, repository = _last(_GEMMA_SCOPE, names)
    embedding = any(
        name == "embedding" and below.startswith("width_") for name, below in pairwise(names)
    )
    if repository is None:
        return Release(hook="hook_embed", embedding=True) if embedding else Release()
    size, tuned, site = repository.groups()
    model = f"gemma-2-{size}{'-it' if tuned == 'it' else ''}"
    if embedding:
        return Release(model, "hook_embed", embedding=True)
    _, layer = _last(r"layer_(\d+)", names[at:])
    if site == "transcoders":
        out = f"blocks.{layer[1]}.hook_mlp_out" if layer else None
        return Release(model, hook_out=out, transcoder=True)
    return Release(model, f"blocks.{layer[1]}.{_GEMMA_SITES[site]}" if layer else None)


def gemma_scope_2(weights: Path) -> Release | None:
    """``gemma-scope-2-1b-pt/resid_post/layer_12_width_16k_l0_small/params.safetensors``."""
    names = components(weights)
    at, repository = _last(_GEMMA_SCOPE_2, names)
    _, site = _last(r"(resid_post|attn_out|mlp_out|transcoder)(?:_all)?", names[at:])
    _, layer = _last(r"layer_(\d+)(?:_.*)?", names[at:])
    if repository is None or site is None or layer is None:
        return None
    model = gemma_3_name(f"gemma-3-{repository[1]}-{repository[2]}")
    block = f"blocks.{layer[1]}"
    if site[1] == "transcoder":
        return Release(model, f"{block}.mlp.hook_in", f"{block}.hook_mlp_out", transcoder=True)
    return Release(model, f"{block}.{_GEMMA_2_SITES[site[1]]}")


def gemma_3_name(name: str) -> str:
    """The model as the hub calls it: configs write v3, and the smallest has no ``-pt``."""
    name = name.replace("gemma-v3", "gemma-3")
    return name.removesuffix("-pt") if "270m" in name else name


def gemma_3_hook(hf_name: Any) -> str | None:
    """The hook point of a module of Gemma 3 in transformers; None where it has no certain one."""
    match = re.fullmatch(
        r"model\.(?:language_model\.)?layers\.(\d+)\.(\S+)",
        hf_name if isinstance(hf_name, str) else "",
    )
    site = _GEMMA_3_MODULES.get(match[2]) if match else None
    return f"blocks.{match[1]}.{site}" if match and site else None


def qwen_scope(weights: Path) -> Release | None:
    """``SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer3.sae.pt``; k stands only in the folder."""
    layer = re.fullmatch(r"layer(\d+)\.sae\.pt", weights.name)
    if layer is None:
        return None
    _, repository = _last(r"SAE-([^-]+)-(.+)-W\d+K-L0_(\d+)", components(weights))
    if repository is None:
        return Release()
    hook = f"blocks.{layer[1]}.hook_resid_post" if repository[1] == "Res" else None
    return Release(repository[2], hook, k=int(repository[3]))


def openai(weights: Path) -> Release | None:
    """``gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt``."""
    names = components(weights)
    layer = re.fullmatch(r"(\d+)\.pt", names[-1])
    if layer is None or len(names) < 3 or names[-2] != "autoencoders":
        return None
    location = re.sub(r"_v4$|_v5_32k$|_v5_128k$", "", names[-3])
    site = _OPENAI_LOCATIONS.get(location)
    if site is None:
        return None
    return Release("gpt2-small" if "gpt2-small" in names else None, f"blocks.{layer[1]}.{site}")


def named_by_layer(weights: Path) -> Release | None:
    """``Llama-3.1-8B-Instruct-SAE-l19.pth``: Goodfire, and qresearch's of DeepSeek-R1."""
    _, match = _last(r"(.+)-SAE-l(\d+)(?:\.pth?)?", components(weights)[-2:])
    return Release(match[1], f"blocks.{match[2]}.hook_resid_post") if match else None


def circuit_tracer(weights: Path, config: Mapping[str, Any]) -> Release:
    """``layer_3.safetensors``, by its `config.yaml` or the name of its repository."""
    layer = re.fullmatch(r"layer_(\d+)\.safetensors", weights.name)
    read, written = config.get("feature_input_hook"), config.get("feature_output_hook")
    _, repository = _last(_TRANSCODERS, components(weights))
    if layer is None or not (read or repository):
        return Release()
    read, written = read or "mlp.hook_in", written or "hook_mlp_out"
    model = config.get("model_name")
    model = model if isinstance(model, str) else None
    if written == "mlp.hook_out" and not has_post_norms(model):
        written = "hook_mlp_out"
    if read not in _CIRCUIT_TRACER_INPUTS or written != "hook_mlp_out":
        return Release(model, transcoder=True)
    block = f"blocks.{layer[1]}"
    return Release(model, f"{block}.{read}", f"{block}.{written}", transcoder=True)


def has_post_norms(model_name: str | None) -> bool:
    """Whether what the modules put out passes a norm before hook_mlp_out and hook_attn_out."""
    return model_name is not None and _POST_NORM.search(model_name) is not None


def _last(pattern: str, names: Sequence[str]) -> tuple[int, re.Match[str] | None]:
    """Index and match of the last name that is as the pattern; 0 and None if there is none."""
    for index in reversed(range(len(names))):
        match = re.fullmatch(pattern, names[index])
        if match is not None:
            return index, match
    return 0, None
