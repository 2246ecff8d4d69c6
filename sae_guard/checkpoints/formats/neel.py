"""Neel Nanda's 1L SAEs and similar ones: ``NAME.pt`` beside ``NAME_cfg.json``.

https://github.com/neelnanda-io/1L-Sparse-Autoencoder, `utils.py`. ReLU; b_dec is subtracted from
the input. The attention SAEs of ckkissane, on concatenated heads, have this layout too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, check_sizes, oriented
from sae_guard.checkpoints.declarations import Declaration, text_or_none
from sae_guard.checkpoints.files import CheckpointFiles
from sae_guard.checkpoints.format import ConfigLocation, Format, Opened
from sae_guard.checkpoints.options import SaeOptions

if TYPE_CHECKING:
    from sae_guard.sae import SAE

_ASSUMED = "ReLU, with b_dec taken off the input, as in the repository of this layout"
_FIRST_RUNS = "gelu-1l at blocks.0.mlp.hook_post, as the code of the first runs has it"


def matches(files: CheckpointFiles) -> bool:
    """Recognise the format by a config that has the name of the weights."""
    config_file = files.config_file
    return config_file is not None and config_file.name == f"{files.weights.stem}_cfg.json"


def names_in_config(files: CheckpointFiles) -> Declaration | None:
    """Read ``model_name``, and ``act_name`` or ``hook_point``; configs of the first runs lack them.

    Raises:
        LoadError: A name is no text.
    """
    config, path = files.config, files.config_file
    if config is None or path is None:
        return None
    if "d_mlp" in config and "act_name" not in config and "hook_point" not in config:
        return Declaration("gelu-1l", "blocks.0.mlp.hook_post")
    hook = text_or_none(config.get("hook_point", config.get("act_name")), path, "hook_point")
    return Declaration(text_or_none(config.get("model_name"), path, "model_name"), hook)


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a ``NAME.pt`` with its ``NAME_cfg.json``.

    Raises:
        LoadError: The sizes in the config differ from those of the weights.
    """
    settings = ForwardSettings("standard", pre_bias=True)
    config = opened.config or {}
    tensors, notes = oriented(opened.tensors)
    assumed = (_ASSUMED, _FIRST_RUNS) if "d_mlp" in config else (_ASSUMED,)
    source = opened.source("Neel 1L", *assumed, *notes, declaration=names_in_config(opened))
    sae = assemble(tensors, settings, source, opened.weights)
    sizes = {"act_size": sae.d_in, "d_mlp": sae.d_in, "dict_size": sae.d_sae}
    check_sizes(config, sizes, opened.config_file or opened.weights)
    return sae


FORMAT = Format(
    name="Neel 1L",
    recognised_by="`NAME.pt` with `NAME_cfg.json`",
    holds="standard SAEs",
    config_locations=(ConfigLocation("{stem}_cfg.json", r".*", rank=-1),),
    declare=lambda files: names_in_config(files) if matches(files) else None,
    matches=matches,
    read=read,
)
