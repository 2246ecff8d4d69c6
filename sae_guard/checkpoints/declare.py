"""What a checkpoint says of where it belongs, by its config and its path; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.checkpoints import released
from sae_guard.checkpoints.locate import Parts, parts, read_config
from sae_guard.errors import LoadError

_MODULES = {"": "hook_resid_post", "mlp": "hook_mlp_out"} | dict.fromkeys(
    ("attn", "self_attn", "attention"), "hook_attn_out"
)
_MODULE_INPUTS = {"hook_resid_post": "hook_resid_pre", "hook_mlp_out": "mlp.hook_in"}


@dataclass(frozen=True)
class Declaration:
    """The model and hook point of a checkpoint; None where it does not say."""

    model_name: str | None = None
    hook: str | None = None
    hook_out: str | None = None
    """What a transcoder replaces."""


def declare(path: Path, name: str | None = None) -> Declaration:
    """What the checkpoint says of its model and hook point.

    Args:
        path: A file or a folder.
        name: Which SAE, where a file holds several.

    Raises:
        LoadError: There is nothing at the path, or its config is unreadable.
    """
    if not path.exists():
        raise LoadError(f"{path}: no such checkpoint")
    found = parts(path)
    return Declaration() if found is None else declared(found, name)


def declared(found: Parts, name: str | None = None) -> Declaration:
    """What these files say of their model and hook point; raises `LoadError`."""
    if re.fullmatch(r"layer_\d+\.safetensors", found.weights.name):
        return _circuit_tracer(found)
    if found.weights.name == "params.safetensors":
        return _gemma_scope_2(found)
    if found.config is None:
        return _of(released.by_path(found.weights))
    config = read_config(found.config)
    if "hook_point_in" in config:
        return _openmoss(config, found.config)
    if found.config.name == "final_config.yaml":
        return _e2e_sae(config, found.config, name)
    if found.weights.name == "sae_weights.safetensors":
        return _saelens(config, found.config)
    if found.weights.name == "sae.safetensors":
        return _sparsify(found.weights.parent, config)
    if "trainer" not in config:
        return _transformer_lens_names(config, found.config)
    return _dictionary_learning(config, found.config)


def names(found: Parts) -> dict[str, str | None]:
    """The same under the names that provenance has for it."""
    said = declared(found)
    return {
        "model_name": said.model_name,
        "hook_name": said.hook,
        "hook_name_out": said.hook_out,
    }


def _of(release: released.Release) -> Declaration:
    return Declaration(release.model_name, release.hook, release.hook_out)


def _transformer_lens_names(config: Mapping[str, Any], path: Path) -> Declaration:
    """Neel's and Bussmann's configs; Neel's first runs leave it to the code."""
    if "d_mlp" in config and "act_name" not in config and "hook_point" not in config:
        return Declaration("gelu-1l", "blocks.0.mlp.hook_post")
    hook = _text(config.get("hook_point", config.get("act_name")), path, "hook_point")
    return Declaration(_text(config.get("model_name"), path, "model_name"), hook)


def _saelens(config: Mapping[str, Any], path: Path) -> Declaration:
    metadata = config.get("metadata")
    facts = {**config, **(metadata if isinstance(metadata, dict) else {})}
    hook = _text(facts.get("hook_name", facts.get("hook_point")), path, "hook_name")
    if hook is not None:  # versions 1 and 2 keep the layer apart
        hook = hook.replace("{layer}", str(facts.get("hook_point_layer")))
    return Declaration(
        _text(facts.get("model_name"), path, "model_name"),
        hook,
        _text(facts.get("hook_name_out"), path, "hook_name_out")
        if "transcoder" in str(config.get("architecture"))
        else None,
    )


def _openmoss(config: Mapping[str, Any], path: Path) -> Declaration:
    """Both hook points are in the config, the model in a file beside it, if anywhere."""
    read, written = (
        _text(config.get(key), path, key) for key in ("hook_point_in", "hook_point_out")
    )
    of_model = path.with_name("lm_config.json")
    model = read_config(of_model).get("model_name") if of_model.is_file() else None
    return Declaration(
        _text(model, of_model, "model_name"), read, written if written != read else None
    )


def _e2e_sae(config: Mapping[str, Any], path: Path, name: str | None) -> Declaration:
    """The hook point is the name of the SAE; the only SAE of a file needs none."""
    saes = config.get("saes")
    positions = saes.get("sae_positions") if isinstance(saes, dict) else None
    if name is None and isinstance(positions, list) and len(positions) == 1:
        name = str(positions[0])
    hook = name.replace("-", ".") if name else ""
    # A position in the config may be a part of a name, which stands for all that hold it.
    whole = re.fullmatch(r"blocks\.\d+\.(\w+\.)?hook_\w+", hook)
    model = _text(config.get("tlens_model_name"), path, "tlens_model_name")
    return Declaration(model, hook if whole else None)


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


def _sparsify(path: Path, config: Mapping[str, Any]) -> Declaration:
    """The folder is called as the module that was trained on; a seed may follow."""
    folder = path.parent if re.fullmatch(r"seed\d+", path.name) else path
    run = folder.parent / "config.json"
    model = read_config(run).get("model") if run.is_file() else None
    model = _text(model, run, "model")
    match = re.fullmatch(r"(?:layers|h)\.(\d+)(?:\.(\w+))?", folder.name)
    module = (match[2] or "") if match else None
    site = _MODULES.get(module) if module is not None else None
    if match is None or site is None or (module and released.has_post_norms(model)):
        return Declaration(model)
    block = f"blocks.{match[1]}"
    if not config.get("transcode"):
        return Declaration(model, f"{block}.{site}")
    read = _MODULE_INPUTS.get(site)  # both hook points, or none
    return Declaration(model, f"{block}.{read}", f"{block}.{site}") if read else Declaration(model)


def _gemma_scope_2(found: Parts) -> Declaration:
    """The config, which some folders lack; then the path."""
    by_path = released.gemma_scope_2(found.weights)
    if found.config is None:
        return _of(by_path) if by_path else Declaration()
    config = read_config(found.config)
    model = _text(config.get("model_name"), found.config, "model_name")
    read, written = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    model = released.gemma_3_name(model) if model else None
    hook, out = released.gemma_3_hook(read), released.gemma_3_hook(written)
    if written is None or written == read:
        return Declaration(model, hook)
    return Declaration(model, hook, out) if hook and out else Declaration(model)


def _circuit_tracer(found: Parts) -> Declaration:
    config = read_config(found.config) if found.config else {}
    for key in ("model_name", "feature_input_hook", "feature_output_hook"):
        _text(config.get(key), found.config or found.weights, key)
    return _of(released.circuit_tracer(found.weights, config))


def _text(value: Any, path: Path, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise LoadError(f"{path}: {key} is {value!r}, expected text")
    return value
