"""SAELens 1 to 5: the folder of SAELens 6 with a flat config that names no version.

https://github.com/jbloomAus/SAELens, `sae_lens/sae.py` at v5.11.0 and
`sae_lens/training/sparse_autoencoder.py` at v2.1.3, whose config is that of the whole training run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.saelens import build, config_of, is_folder
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_SCALES = ("finetuning_scaling_factor", "scaling_factor")
_METADATA = (
    "model_name", "prepend_bos", "context_size", "seqpos_slice", "model_from_pretrained_kwargs",
)  # fmt: skip


def read(opened: Opened, options: SaeOptions, *, family: str | None = None) -> SAE:
    """The SAE of a SAELens 1–5 folder, or of the single file of its forerunner.

    Raises:
        LoadError: The activation function is none that is read exactly, the latents are rescaled
            by a finetuned factor, or what a SAELens 6 folder would be refused for.
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
            "6, and the file does not tell"
        )
    metadata = {name: config.get(name) for name in _METADATA} | {
        "hook_name": config.get("hook_name", config.get("hook_point")),
        "hook_head_index": config.get("hook_head_index", config.get("hook_point_head_index")),
    }
    folder = "SAELens 3–5" if "hook_name" in config else "SAELens 1–2"
    return build(opened, upgraded, metadata, _tensors(opened), options, family or folder)


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
    if function == "topk" and architecture in ("standard", "topk") and set(arguments) == {"k"}:
        return {"architecture": "topk", "k": arguments["k"]}
    if function != "relu" or arguments or architecture == "topk":
        raise LoadError(
            f"{path}: activation function {function!r} with {arguments!r} in a {architecture} SAE; "
            "read so far: 'relu', and 'topk' with k"
        )
    return {"architecture": architecture}


def _tensors(opened: Opened) -> dict[str, Tensor]:
    tensors = opened.tensors
    for name in _SCALES:
        scale = tensors.pop(name, None)
        if scale is not None and not bool((scale == 1).all()):
            raise LoadError(
                f"{opened.weights}: {name} lies between {float(scale.min()):g} and "
                f"{float(scale.max()):g}: latents rescaled by finetuning are not read yet; "
                "allowed: 1"
            )
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    return tensors


FAMILY = Family(
    "SAELens 1–5",
    recognised_by="a folder with `cfg.json` (without a `sae_lens_version`) and "
    "`sae_weights.safetensors`",
    holds="standard, topk, jumprelu and gated SAEs; a scale that normalize_activations says and "
    "the file does not hold has to be said as folded",
    matches=is_folder,
    read=read,
)
