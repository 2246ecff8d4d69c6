"""What a checkpoint says of where it belongs, by its config and its path; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.checkpoints.locate import parts, read_config
from sae_guard.errors import LoadError

_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_MODULES = {"": "hook_resid_post", "mlp": "hook_mlp_out"} | dict.fromkeys(
    ("attn", "self_attn", "attention"), "hook_attn_out"
)


@dataclass(frozen=True)
class Declaration:
    """The model and hook point of a checkpoint; None where it does not say."""

    model_name: str | None = None
    hook: str | None = None
    hook_out: str | None = None
    """What a transcoder replaces."""


def declare(path: Path) -> Declaration:
    """What the checkpoint says of its model and hook point.

    Raises:
        LoadError: There is nothing at the path, or its config is unreadable.
    """
    if not path.exists():
        raise LoadError(f"{path}: no such checkpoint")
    found = parts(path)
    if found is None:
        return Declaration()
    if found.weights.suffix == ".npz":
        return _gemma_scope(path)
    if found.config is None:
        return Declaration()
    config = read_config(found.config)
    if found.weights.name == "sae_weights.safetensors":
        return _saelens(config, found.config)
    if found.weights.name == "sae.safetensors":
        return _sparsify(path)
    if "trainer" not in config:
        return _transformer_lens_names(config, found.config)
    return _dictionary_learning(config, found.config)


def _transformer_lens_names(config: Mapping[str, Any], path: Path) -> Declaration:
    """Neel's and Bussmann's configs."""
    hook = _text(config.get("hook_point", config.get("act_name")), path, "hook_point")
    return Declaration(_text(config.get("model_name"), path, "model_name"), hook)


def _saelens(config: Mapping[str, Any], path: Path) -> Declaration:
    metadata = config.get("metadata")
    facts = {**config, **(metadata if isinstance(metadata, dict) else {})}
    hook = _text(facts.get("hook_name", facts.get("hook_point")), path, "hook_name")
    if hook is not None:  # versions 1 and 2 keep the layer apart
        hook = hook.replace("{layer}", str(facts.get("hook_point_layer")))
    return Declaration(_text(facts.get("model_name"), path, "model_name"), hook)


def _dictionary_learning(config: Mapping[str, Any], path: Path) -> Declaration:
    """The residual after ``layer``, unless a submodule of another name was trained on."""
    trainer, buffer = config.get("trainer"), config.get("buffer")
    trainer = trainer if isinstance(trainer, dict) else {}
    layer, submodule = trainer.get("layer"), trainer.get("submodule_name")
    reads_output = not isinstance(buffer, dict) or buffer.get("io", "out") == "out"
    residual = submodule is None or re.fullmatch(rf"resid_post(_layer_{layer})?", str(submodule))
    hook = f"blocks.{layer}.hook_resid_post" if type(layer) is int and residual else None
    model = _text(trainer.get("lm_name"), path, "trainer.lm_name")
    return Declaration(model, hook if reads_output else None)


def _sparsify(path: Path) -> Declaration:
    """The folder is called as the module whose output was trained on; a seed may follow."""
    folder = path.parent if re.fullmatch(r"seed\d+", path.name) else path
    run = folder.parent / "config.json"
    model = read_config(run).get("model") if run.is_file() else None
    match = re.fullmatch(r"(?:layers|h)\.(\d+)(?:\.(\w+))?", folder.name)
    site = _MODULES.get(match[2] or "") if match else None
    return Declaration(
        _text(model, run, "model"), f"blocks.{match[1]}.{site}" if match and site else None
    )


def _gemma_scope(path: Path) -> Declaration:
    """``gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz`` says both."""
    whole = path.resolve().as_posix()
    repository = re.search(r"gemma-scope-(\w+)-(pt|it)-(\w+)", whole)
    layer = re.search(r"/layer_(\d+)/", whole + "/")
    if repository is None:
        return Declaration()
    size, tuned, site = repository.groups()
    hook = f"blocks.{layer[1]}.{_SITES[site]}" if layer and site in _SITES else None
    return Declaration(f"gemma-2-{size}{'-it' if tuned == 'it' else ''}", hook)


def _text(value: Any, path: Path, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise LoadError(f"{path}: {key} is {value!r}, expected text")
    return value
