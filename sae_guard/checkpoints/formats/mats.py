"""mats_sae_training and SAELens of 2024: one ``.pt`` with ``cfg`` and ``state_dict``.

https://github.com/jbloomAus/SAELens at v0.1 to v2.1, and for transcoders its fork
https://github.com/jacobdunefsky/transcoder_circuits, `sae_training/sparse_autoencoder.py`. The
config is a pickled object of the training package, read as an inert object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, check_sizes
from sae_guard.checkpoints.format import Format, Opened
from sae_guard.checkpoints.formats import saelens_before_6
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_PLAIN = (str, int, float, bool, dict, type(None))


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a single file; raises `LoadError` as for a folder of SAELens 1 to 5."""
    tensors, cfg = opened.entries["state_dict"], opened.entries["cfg"]
    if not isinstance(tensors, Mapping):
        raise LoadError(
            f"{opened.weights}: state_dict is {type(tensors).__name__}, expected a mapping"
        )
    config = _config(cfg)
    if "d_in" not in config:
        raise LoadError(
            f"{opened.weights}: cfg ({type(cfg).__name__}) has no d_in; it has: "
            f"{', '.join(sorted(config)) or 'nothing'}"
        )
    unpacked = replace(opened, entries=tensors, config=config, config_file=opened.weights)
    is_transcoder = config.get("is_transcoder") or False
    if is_transcoder != ("b_dec_out" in tensors) and "is_transcoder" in config:
        raise LoadError(
            f"{opened.weights}: is_transcoder is {config['is_transcoder']!r}, and there is "
            f"{'a' if 'b_dec_out' in tensors else 'no'} b_dec_out; allowed: both or neither",
            "keys",
        )
    if "b_dec_out" in tensors:
        return _transcoder(unpacked, config, options)
    return saelens_before_6.read(unpacked, options, format_name="mats_sae_training")


def _transcoder(opened: Opened, config: Mapping[str, Any], options: SaeOptions) -> SAE:
    """Load a transcoder: b_dec is subtracted from its input, b_dec_out is added to its output."""
    if config.get("hook_point_head_index") is not None:
        raise LoadError(
            f"{opened.weights}: hook_point_head_index is {config['hook_point_head_index']!r}, "
            "allowed: None (transcoders of a single attention head are not read)"
        )
    tensors, latent_scale = saelens_before_6.finetuned(opened.tensors, config, opened.weights)
    names = {"b_dec": "b_pre", "b_dec_out": "b_dec"}
    canonical: dict[str, Tensor] = {names.get(name, name): t for name, t in tensors.items()}
    if "b_dec" not in tensors or {"b_pre", "latent_scale", "W_skip"} & tensors.keys():
        raise LoadError(
            f"{opened.weights}: expected W_enc, b_enc, b_dec, W_dec and b_dec_out; the file has: "
            f"{', '.join(tensors)}",
            "keys",
        )
    if latent_scale is not None:
        canonical["latent_scale"] = latent_scale
    settings = ForwardSettings("standard", pre_bias=True, transcoder=True)
    source = opened.source(
        "mats_sae_training transcoder",
        model_name=config.get("model_name"),
        hook_name=saelens_before_6.hook_of(config, "hook_point"),
        hook_name_out=saelens_before_6.hook_of(config, "out_hook_point"),
        prepend_bos=config.get("prepend_bos"),
        context_size=config.get("context_size"),
    )
    sae = assemble(canonical, settings, source, opened.weights)
    d_out = config.get("d_out")
    # None equals no size: a config without d_sae is refused.
    stated = {"d_sae": None, **config, "d_out": config["d_in"] if d_out is None else d_out}
    sizes = {"d_in": sae.d_in, "d_sae": sae.d_sae, "d_out": sae.d_out}
    check_sizes(stated, sizes, opened.weights)
    return sae


def _config(cfg: Any) -> dict[str, Any]:
    """Return the plain values of a config that is a mapping or a pickled object."""
    fields = vars(cfg) if isinstance(cfg, InertObject) else cfg
    plain = fields if isinstance(fields, Mapping) else {}
    return {str(name): value for name, value in plain.items() if isinstance(value, _PLAIN)}


FORMAT = Format(
    name="mats_sae_training",
    recognised_by="a `.pt`, `.pkl` or `.pkl.gz` file with `cfg` and `state_dict`",
    holds="standard SAEs, and the transcoders of transcoder_circuits",
    matches=lambda opened: {"cfg", "state_dict"} <= opened.entries.keys(),
    read=read,
)
