"""OpenAI: a state dict with ``pre_bias`` and ``latent_bias`` that names its own activation.

https://github.com/openai/sparse_autoencoder, `model.py`. By that code, and not by the files, TopK
SAEs normalise their input as a layer norm does, and ReLU SAEs do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import Declaration, components
from sae_guard.checkpoints.format import Format, Opened, is_tensor
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_NAMES = {
    "pre_bias": "b_dec",
    "latent_bias": "b_enc",
    "encoder.weight": "W_enc",
    "decoder.weight": "W_dec",
}
_TIED = "decoder.linear.weight"  # a copy of encoder.weight [d_sae, d_in]
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_ACTIVATION = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")


_LOCATIONS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
}


def by_names(weights: Path) -> Declaration | None:
    """Read the hook point from ``gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt``."""
    names = components(weights)
    layer = re.fullmatch(r"(\d+)\.pt", names[-1])
    if layer is None or len(names) < 3 or names[-2] != "autoencoders":
        return None
    site = _LOCATIONS.get(re.sub(r"_v4$|_v5_32k$|_v5_128k$", "", names[-3]))
    if site is None:
        return None
    return Declaration("gpt2-small" if "gpt2-small" in names else None, f"blocks.{layer[1]}.{site}")


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of an OpenAI ``N.pt``.

    Raises:
        LoadError: The activation is neither ReLU nor TopK, TopK has no k or a function other than
            ReLU after it, or the file is one of the training, which states less.
    """
    entries = dict(opened.entries)
    _check_released(entries, options, opened)
    settings = _settings(entries, opened)
    weights = {
        name: value for name, value in entries.items() if name not in (*_STATISTICS, *_ACTIVATION)
    }
    unknown = sorted(name for name, value in weights.items() if not is_tensor(value))
    if unknown:
        raise LoadError(
            f"{opened.weights}: not understood: {', '.join(unknown)}; allowed: tensors, and "
            f"{', '.join(_ACTIVATION)}"
        )
    source = opened.source("OpenAI", _assumption(settings), declaration=by_names(opened.weights))
    return assemble(_canonical(weights, opened), settings, source, opened.weights)


def _check_released(entries: Mapping[str, Any], options: SaeOptions, opened: Opened) -> None:
    """Refuse files of `train.py`, which lack the activation, its k and the normalisation."""
    if "activation" in entries or set(_STATISTICS[1:]) & entries.keys():
        return
    if options.architecture != "standard":
        choice = (
            "standard (ReLU, the input is not normalised); files that `train.py` saved (TopK on "
            "normalised inputs) are not read"
        )
        raise ambiguous(
            f"{opened.weights} has neither an activation nor the statistics of latents that "
            "released files have",
            "activation",
            ("architecture", choice),
        )


def _canonical(tensors: dict[str, Any], opened: Opened) -> dict[str, Tensor]:
    tied = tensors.pop(_TIED, None)
    canonical = renamed(tensors, _NAMES)
    if tied is None:
        return canonical
    encoder = tensors.get("encoder.weight")
    if "W_dec" in canonical or encoder is None or not tied.equal(encoder):
        raise LoadError(
            f"{opened.weights}: {_TIED} differs from encoder.weight, allowed: a copy of it, and no "
            "decoder.weight",
            "keys",
        )
    return {**canonical, "W_dec": tied}


def _settings(entries: dict[str, Any], opened: Opened) -> ForwardSettings:
    activation = entries.get("activation", "ReLU")  # the files of v1 do not state it
    if activation == "ReLU":
        return ForwardSettings("standard", pre_bias=True)
    state = entries.get("activation_state_dict", {})
    k = entries.get("activation.k", state.get("k") if isinstance(state, dict) else None)
    after = entries.get(
        "activation.postact_fn", state.get("postact_fn") if isinstance(state, dict) else None
    )
    if activation != "TopK" or type(k) is not int or after not in (None, "ReLU"):
        raise LoadError(
            f"{opened.weights}: activation is {activation!r} with k {k!r} and postact_fn "
            f"{after!r}, allowed: 'ReLU', or 'TopK' with a whole number and 'ReLU'"
        )
    return ForwardSettings("topk", k, pre_bias=True, normalize="layer_norm")


def _assumption(settings: ForwardSettings) -> str:
    applied = (
        "normalised as by a layer norm" if settings.architecture == "topk" else "not normalised"
    )
    return f"the input is {applied}, as OpenAI's code does with this activation"


FORMAT = Format(
    name="OpenAI",
    recognised_by="the keys `pre_bias` and `latent_bias`",
    holds="standard SAEs, and topk SAEs with layer_norm",
    declare=lambda files: by_names(files.weights) if files.config is None else None,
    matches=lambda opened: {"pre_bias", "latent_bias"} <= opened.entries.keys(),
    read=read,
)
