"""SAELens 1 to 5: the folder of SAELens 6 with a flat config without a version.

https://github.com/jbloomAus/SAELens, `sae_lens/sae.py` at v5.11.0 and
`sae_lens/training/sparse_autoencoder.py` at v2.1.3, which saves the config of the training run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.formats import saelens
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_SCALES = ("finetuning_scaling_factor", "scaling_factor")
_KINDS = {name: saelens.KINDS[name] for name in ("standard", "topk", "jumprelu", "gated")} | {
    "tanh_relu": saelens.Kind("tanh_relu")
}
_METADATA = (
    "model_name", "prepend_bos", "context_size", "seqpos_slice", "model_from_pretrained_kwargs",
    "sae_lens_training_version",
)  # fmt: skip


def read(opened: Opened, options: SaeOptions, *, format_name: str | None = None) -> SAE:
    """Load the SAE of a SAELens 1–5 folder, or of the single file of its predecessor.

    Raises:
        LoadError: The activation function is unknown, the config and the tensors disagree on a
            finetuned factor, or a SAELens 6 folder would be refused for the same reason.
    """
    path, config = saelens.config_of(opened)
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
            f"{config['normalize_activations']!r}, allowed: 'none' (versions 3 to 6 of SAELens "
            "compute different results for it, and the file does not state its version)",
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
    return saelens.build(
        opened, upgraded, metadata, tensors, options, format_name or folder,
        kinds=_KINDS, latent_scale=latent_scale,
    )  # fmt: skip


def hook_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the hook point ``key`` with its layer; versions 1 and 2 store it in ``key``_layer."""
    hook = config.get(key)
    layer = config.get(f"{key}_layer")
    return hook.replace("{layer}", str(layer)) if isinstance(hook, str) else hook


def _normalization(value: Any) -> Any:
    """Return the normalisation as SAELens 6 names it; versions 1 and 2 have a boolean."""
    if isinstance(value, bool):
        return "expected_average_only_in" if value else "none"
    return value or "none"


def _architecture(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the architecture, with k where the activation function is TopK.

    SAELens 6 itself silently loads any other function as ReLU, which gives other numbers.
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
            "allowed: 'relu', 'tanh-relu' in a standard SAE, and 'topk' with k",
            "activation",
        )
    return {"architecture": architecture}


def finetuned(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Split off the factor per latent [d_sae] that finetuning left; None where it is all ones.

    Versions 1 and 2 store a factor in every file, of ones without finetuning; later versions read
    it only if the config has ``finetuning_scaling_factor``.

    Returns:
        The other tensors, and the factor.

    Raises:
        LoadError: The config and the tensors disagree on the factor.
    """
    weights = {name: tensor for name, tensor in tensors.items() if name not in _SCALES}
    names = [name for name in _SCALES if name in tensors]
    is_finetuned = config.get("finetuning_scaling_factor")
    if len(names) != 1:
        if names or is_finetuned is True:
            raise LoadError(
                f"{path}: finetuning_scaling_factor is {is_finetuned!r} in the config, and the "
                f"weights have: {', '.join(names) or 'none'}; allowed: true with one of "
                f"{', '.join(_SCALES)}",
                "keys",
            )
        return weights, None
    factor = tensors[names[0]]
    if bool((factor == 1).all()):
        return weights, None
    if is_finetuned is False:
        raise LoadError(
            f"{path}: {names[0]} lies between {float(factor.min()):g} and {float(factor.max()):g}, "
            "but the config has finetuning_scaling_factor false; allowed: 1",
            "scale",
        )
    return weights, factor


FORMAT = Format(
    name="SAELens 1–5",
    recognised_by="a folder with `cfg.json` (without a `sae_lens_version`) and "
    "`sae_weights.safetensors`",
    holds="standard (also with tanh-relu, and finetuned), topk, jumprelu and gated SAEs; needs the "
    "option scale if normalize_activations implies one that no file stores",
    folders=saelens.FOLDERS,
    declare=saelens.declare,
    matches=saelens.is_folder,
    read=read,
)
