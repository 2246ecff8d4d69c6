"""Apollo's e2e_sae: ``samples_N.pt`` with an SAE per hook point, beside ``final_config.yaml``.

https://github.com/ApolloResearch/e2e_sae, `models/sparsifiers.py` and `models/transformers.py`. The
names of hook points have hyphens in place of dots, as names of torch modules must.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import Declaration, check_known, text_or_none
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import ConfigLocation, Format, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_NAMES = {
    "encoder.0.weight": "W_enc",
    "encoder.0.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
}
_CONFIG = "final_config.yaml"
_KEY = re.compile(r"([^.]+)\.(encoder\.0\.weight|codebook)")
_FIELDS = {
    "type_of_sparsifier", "dict_size_to_input_ratio", "k", "pretrained_sae_paths", "retrain_saes",
    "sae_positions",
}  # fmt: skip


def matches(opened: Opened) -> bool:
    """Recognise the format by the keys, with or without the config."""
    keys = [match for key in opened.entries if (match := _KEY.fullmatch(key))]
    return any(m[2] == "codebook" or f"{m[1]}.decoder.weight" in opened.entries for m in keys)


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read the model from the config; the hook point is the name of the SAE, or of the only one.

    Raises:
        LoadError: The name of the model is no text.
    """
    config, path, name = files.config, files.config_file, files.name
    if config is None or path is None or path.name != _CONFIG:
        return None
    saes = config.get("saes")
    positions = saes.get("sae_positions") if isinstance(saes, dict) else None
    if name is None and isinstance(positions, list) and len(positions) == 1:
        name = str(positions[0])
    hook = name.replace("-", ".") if name else ""
    # A position in the config may be a part of a name, which selects all hook points with it.
    is_full_name = re.fullmatch(r"blocks\.\d+\.(\w+\.)?hook_\w+", hook)
    model = text_or_none(config.get("tlens_model_name"), path, "tlens_model_name")
    return Declaration(model, hook if is_full_name else None)


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of the hook point in ``#blocks.6.hook_resid_pre``, or the only one.

    relu(x · encoder.0.weightᵀ + encoder.0.bias) · normalize(decoder.weight)ᵀ + decoder.bias, where
    the column of a latent in decoder.weight is divided by its length in every forward pass.

    Raises:
        LoadError: The reference names no hook point or an unknown one, the SAE has a codebook, or
            the config is unknown in part or does not fit the tensors.
    """
    from torch.nn.functional import normalize

    path = opened.weights
    positions = [m[1] for key in opened.entries if (m := _KEY.fullmatch(key))]
    dotted = replace(opened, name=opened.name.replace("-", ".") if opened.name else None)
    hook = dotted.selected_name([position.replace("-", ".") for position in positions])
    prefix = hook.replace(".", "-") + "."
    own = {n.removeprefix(prefix): t for n, t in opened.tensors.items() if n.startswith(prefix)}
    if "codebook" in own:
        raise LoadError(
            f"{path}: {prefix}codebook: codebooks are not read, as they have no encoder"
        )
    canonical = renamed(own, _NAMES)
    stored = canonical.get("W_dec")
    if stored is None or stored.ndim != 2 or not stored.is_floating_point():
        raise LoadError(
            f"{path}: no matrix of floats {prefix}decoder.weight [d_in, d_sae]",
            "keys" if stored is None else "shapes",
        )
    lengths = stored.float().norm(dim=1)
    canonical["W_dec"] = normalize(stored.float(), dim=1)
    settings = ForwardSettings("standard", pre_bias=False)
    config = opened.config or {}
    model = config.get("tlens_model_name")
    source = dotted.source(
        "e2e_sae",
        f"decoder rows, stored with lengths {float(lengths.min()):.4g} to "
        f"{float(lengths.max()):.4g}, are divided by them, as e2e_sae does in every forward pass",
        hook_name=hook,
        model_name=model if isinstance(model, str) else None,
        context_size=_context_size(config),
    )
    sae = assemble(canonical, settings, source, path)
    if opened.config is not None:
        _check_config(opened.config, sae, opened)
    return sae


def _check_config(config: Mapping[str, Any], sae: SAE, opened: Opened) -> None:
    """Raise `LoadError` where the config does not fit the SAE of the file."""
    path, saes = opened.config_file, config.get("saes")
    if not isinstance(saes, dict):
        raise LoadError(f"{path}: saes is {saes!r}, expected an object with settings of the SAEs")
    check_known(saes, _FIELDS, f"{path}: saes")
    kind, ratio = saes.get("type_of_sparsifier"), saes.get("dict_size_to_input_ratio", 1.0)
    if kind not in (None, "sae"):
        raise LoadError(f"{path}: saes.type_of_sparsifier is {kind!r}, allowed: 'sae'")
    # The library rounds ratio · d_in down.
    if type(ratio) not in (int, float) or not sae.d_sae <= ratio * sae.d_in < sae.d_sae + 1:
        raise LoadError(
            f"{path}: saes.dict_size_to_input_ratio is {ratio!r}, but the weights have "
            f"d_in {sae.d_in} and d_sae {sae.d_sae}",
            "shapes",
        )


def _context_size(config: Mapping[str, Any]) -> int | None:
    data = config.get("train_data")
    size = data.get("n_ctx") if isinstance(data, dict) else None
    return size if type(size) is int else None


FORMAT = Format(
    name="e2e_sae",
    recognised_by="the keys `HOOK.encoder.0.weight` and `HOOK.decoder.weight`, with hyphens for "
    "the dots of the hook point; `final_config.yaml` may lie beside",
    holds="standard SAEs; one of several is `samples_400000.pt#blocks.6.hook_resid_pre`",
    config_locations=(ConfigLocation(_CONFIG, r".*/samples_\d+\.pt"),),
    declare=declare,
    matches=matches,
    read=read,
    several=True,
)
