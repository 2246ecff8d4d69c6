"""SAELens 1 to 5: the folder of SAELens 6 with a flat config that names no version.

https://github.com/jbloomAus/SAELens, `sae_lens/sae.py` at v5.11.0 and
`sae_lens/training/sparse_autoencoder.py` at v2.1.3, whose config is that of the whole training run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.formats.saelens import (
    FOLDERS,
    KINDS,
    Kind,
    build,
    config_of,
    declare,
    is_folder,
)
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_SCALES = ("finetuning_scaling_factor", "scaling_factor")
_KINDS = {name: KINDS[name] for name in ("standard", "topk", "jumprelu", "gated")} | {
    "tanh_relu": Kind("tanh_relu")
}
_METADATA = (
    "model_name", "prepend_bos", "context_size", "seqpos_slice", "model_from_pretrained_kwargs",
    "sae_lens_training_version",
)  # fmt: skip


def read(opened: Opened, options: SaeOptions, *, format_name: str | None = None) -> SAE:
    """The SAE of a SAELens 1–5 folder, or of the single file of its forerunner.

    Raises:
        LoadError: The activation function is none that is read exactly, the config and the
            tensors disagree on a finetuned factor, or what a SAELens 6 folder would be refused for.
    """
    path, config = config_of(opened)
    upgraded = {
        "d_in": config.get("d_in"),
        "d_sae": config.get("d_sae"),
        "apply_b_dec_to_input": config.get("apply_b_dec_to_input", True),
        "normalize_activations": _normalization(config.get("normalize_activations")),
        **_architecture(config, path),
    }
    if upgraded["architecture"] == "gated" and upgraded["normalize_activations"] != "none":
        raise LoadError(
            f"{path}: a gated SAE with normalize_activations "
            f"{config['normalize_activations']!r}: SAELens changed what it computes between 3 and "
            "6, and the file does not tell",
            "activation",
        )
    metadata = {name: config.get(name) for name in _METADATA} | {
        "hook_name": config.get("hook_name", hook_of(config, "hook_point")),
        "hook_head_index": config.get("hook_head_index", config.get("hook_point_head_index")),
    }
    folder = "SAELens 3–5" if "hook_name" in config else "SAELens 1–2"
    tensors, latent_scale = finetuned(opened.tensors, config, opened.weights)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    return build(
        opened, upgraded, metadata, tensors, options, format_name or folder,
        kinds=_KINDS, latent_scale=latent_scale,
    )  # fmt: skip


def hook_of(config: Mapping[str, Any], key: str) -> Any:
    """The hook point under ``key``; versions 1 and 2 keep its layer apart, under ``key``_layer."""
    hook = config.get(key)
    layer = config.get(f"{key}_layer")
    return hook.replace("{layer}", str(layer)) if isinstance(hook, str) else hook


def _normalization(said: Any) -> Any:
    """Of versions 1 and 2, whose scale was never stored, is a boolean."""
    if isinstance(said, bool):
        return "expected_average_only_in" if said else "none"
    return said or "none"


def _architecture(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The architecture, with k where the activation function is TopK.

    SAELens 6 itself reads any other function as ReLU, which gives other numbers without a word.
    """
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn_str", config.get("activation_fn")) or "relu"
    arguments = config.get("activation_fn_kwargs") or {}
    keys = set(arguments) if isinstance(arguments, dict) else None
    if function == "topk" and architecture in ("standard", "topk") and keys == {"k"}:
        return {"architecture": "topk", "k": arguments["k"]}
    if function == "tanh-relu" and architecture == "standard" and not arguments:
        return {"architecture": "tanh_relu"}
    if function != "relu" or arguments or architecture in ("topk", "tanh_relu"):
        raise LoadError(
            f"{path}: activation function {function!r} with {arguments!r} in a {architecture} SAE; "
            "read so far: 'relu', 'tanh-relu' in a standard SAE, and 'topk' with k",
            "activation",
        )
    return {"architecture": architecture}


def finetuned(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The tensors without the factor of each latent that finetuning left, and the factor.

    Versions 1 and 2 store one in every file, of ones if there was no finetuning; later versions
    read it only if the config says so.
    """
    others = {name: tensor for name, tensor in tensors.items() if name not in _SCALES}
    names = [name for name in _SCALES if name in tensors]
    said = config.get("finetuning_scaling_factor")
    if len(names) != 1:
        if names or said is True:
            raise LoadError(
                f"{path}: finetuning_scaling_factor is {said!r} in the config, and there is: "
                f"{', '.join(names) or 'none'}; allowed: true with one of {', '.join(_SCALES)}",
                "keys",
            )
        return others, None
    factor = tensors[names[0]]
    if bool((factor == 1).all()):
        return others, None
    if said is False:
        raise LoadError(
            f"{path}: {names[0]} lies between {float(factor.min()):g} and {float(factor.max()):g}, "
            "but the config has finetuning_scaling_factor false; allowed: 1",
            "scale",
        )
    return others, factor


FORMAT = Format(
    name="SAELens 1–5",
    recognised_by="a folder with `cfg.json` (without a `sae_lens_version`) and "
    "`sae_weights.safetensors`",
    holds="standard (also with tanh-relu, and finetuned), topk, jumprelu and gated SAEs; a scale "
    "that normalize_activations says and no file holds has to be said",
    folders=FOLDERS,
    declare=declare,
    matches=is_folder,
    read=read,
)
