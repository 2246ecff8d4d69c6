"""Per-layer transcoders of circuit-tracer, such as mwhanna's: ``layer_N.safetensors``.

https://github.com/safety-research/circuit-tracer, `transcoder/single_layer_transcoder.py`. W_enc
is [d_sae, d_in]; early files have W_dec as [d_out, d_sae] too. No pre-bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, oriented
from sae_guard.checkpoints.declarations import (
    Declaration,
    components,
    has_post_norms,
    last_match,
    text_or_none,
)
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import ConfigLocation, Format, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_KEYS = {"W_enc", "W_dec", "b_enc", "b_dec"}
_THRESHOLD = "activation_function.threshold"
_INPUT = "b_dec is not taken off the input, which is not scaled, as circuit-tracer does"
_RELU = "ReLU, as circuit-tracer does where no threshold is stored"
_WEIGHTS = r"layer_(\d+)\.safetensors"
_REPOSITORY = r"(?i:.+-\d[\d.]*[bm](?:-.+)?-transcoders(?:-.+)?)"
"""Pattern for repositories like `qwen3-4b-transcoders` and `qwen3-0.6b-transcoders-lowl0`."""
_HOOKS_IN = ("mlp.hook_in", "ln2.hook_normalized", "hook_resid_mid")


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read model and hook points from ``config.yaml``, or from the name of the repository.

    Raises:
        LoadError: A name in the config is no text.
    """
    layer = re.fullmatch(_WEIGHTS, files.weights.name)
    if layer is None:
        return None
    config, path = files.config or {}, files.config_file or files.weights
    model, hook_in, hook_out = (
        text_or_none(config.get(key), path, key)
        for key in ("model_name", "feature_input_hook", "feature_output_hook")
    )
    _, repository = last_match(_REPOSITORY, components(files.weights))
    if not (hook_in or repository):
        return Declaration()
    hook_in, hook_out = hook_in or "mlp.hook_in", hook_out or "hook_mlp_out"
    # Without a norm after the MLP both hook points have the same activation.
    if hook_out == "mlp.hook_out" and not has_post_norms(model):
        hook_out = "hook_mlp_out"
    if hook_in not in _HOOKS_IN or hook_out != "hook_mlp_out":
        return Declaration(model)
    block = f"blocks.{layer[1]}"
    return Declaration(model, f"{block}.{hook_in}", f"{block}.{hook_out}")


def matches(opened: Opened) -> bool:
    """Recognise the format by the name of the file, and by its config or the shape of W_enc."""
    if not re.fullmatch(_WEIGHTS, opened.weights.name) or not opened.entries.keys() >= _KEYS:
        return False
    if _config(opened):
        return True
    d_sae, d = (len(opened.entries[name].reshape(-1)) for name in ("b_enc", "b_dec"))
    # With both matrices transposed, it could also be an SAE of two torch.nn.Linear.
    return (
        d_sae != d
        and opened.entries["W_enc"].shape == (d_sae, d)
        and opened.entries["W_dec"].shape == (d_sae, d)
    )


def _config(opened: Opened) -> Mapping[str, Any]:
    """Return the `config.yaml` of a set of transcoders; empty for other configs."""
    config = opened.config or {}
    return config if "feature_input_hook" in config or "model_kind" in config else {}


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the transcoder of a ``layer_N.safetensors``.

    Raises:
        LoadError: The transcoder is a TopK one or not per-layer, or the tensors do not fit.
    """
    tensors, config = opened.tensors, _config(opened)
    architecture = _architecture(tensors, config, opened)
    if _THRESHOLD in tensors:
        tensors["threshold"] = _per_latent(tensors)
    settings = ForwardSettings(architecture, pre_bias=False, transcoder=True)
    matrices, notes = oriented(tensors, transposed=("W_enc",))
    relu_is_assumed = architecture == "standard" and config.get("activation") is None
    assumed = (_INPUT, _RELU) if relu_is_assumed else (_INPUT,)
    source = opened.source("circuit-tracer", *assumed, *notes, declaration=declare(opened))
    return assemble(matrices, settings, source, opened.weights)


def _architecture(tensors: Mapping[str, Tensor], config: Mapping[str, Any], opened: Opened) -> str:
    path = opened.config_file or opened.weights
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise LoadError(
            f"{path}: model_kind is {config['model_kind']!r}, allowed: 'transcoder_set'"
        )
    activation = config.get("activation")
    if "k" in tensors or activation == "topk":
        raise LoadError(
            f"{path if activation == 'topk' else opened.weights}: TopK transcoders are not read: "
            "circuit-tracer keeps the k largest latents without a ReLU, negative ones too; "
            "allowed: ReLU, or JumpReLU with a stored threshold",
            "activation",
        )
    if activation not in (None, "relu"):
        raise LoadError(f"{path}: activation is {activation!r}, allowed: 'relu'", "activation")
    if _THRESHOLD not in tensors:
        return "standard"
    if activation is not None:
        raise LoadError(
            f"{path}: activation is {activation!r}, but {opened.weights} has {_THRESHOLD}",
            "activation",
        )
    return "jumprelu"


def _per_latent(tensors: dict[str, Tensor]) -> Tensor:
    threshold = tensors.pop(_THRESHOLD)
    return threshold.expand(tensors["b_enc"].shape) if threshold.ndim == 0 else threshold


FORMAT = Format(
    name="circuit-tracer",
    recognised_by="`layer_N.safetensors` with `config.yaml` (`feature_input_hook`), or with "
    "`W_enc` as [d_sae, d_in] and `W_dec` as [d_sae, d_out]",
    holds="standard and jumprelu per-layer transcoders, with or without a skip connection",
    config_locations=(ConfigLocation("config.yaml", rf".*/{_WEIGHTS}"),),
    declare=declare,
    declares_first=True,
    matches=matches,
    read=read,
)
