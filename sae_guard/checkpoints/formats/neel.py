"""Neel Nanda's 1L SAEs and their kin: ``NAME.pt`` beside ``NAME_cfg.json``.

https://github.com/neelnanda-io/1L-Sparse-Autoencoder, `utils.py`. ReLU, b_dec taken off the input.
The attention SAEs of ckkissane, on flattened heads, are of this layout.
"""

from __future__ import annotations

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, oriented
from sae_guard.checkpoints.declare import names
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import Parts
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_ASSUMED = "ReLU, with b_dec taken off the input, as in the repository of this layout"
_FIRST_RUNS = "gelu-1l at blocks.0.mlp.hook_post, as the code of the first runs has it"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a ``NAME.pt`` with its ``NAME_cfg.json``.

    Raises:
        LoadError: The sizes in the config are not those of the weights.
    """
    facts = Facts("standard", None, pre_bias=True, normalize="none")
    check_agreement(facts, options, opened.weights)
    config = opened.config or {}
    tensors, notes = oriented(opened.tensors)
    assumed = (_ASSUMED, _FIRST_RUNS) if "d_mlp" in config else (_ASSUMED,)
    said = names(Parts(opened.weights, opened.config_file))
    source = opened.source("Neel 1L", *assumed, *notes, **said)
    sae = assemble(tensors, facts, source, opened.weights)
    for name, found in (("act_size", sae.d_in), ("d_mlp", sae.d_in), ("dict_size", sae.d_sae)):
        if config.get(name, found) != found:
            raise LoadError(
                f"{opened.config_file}: {name} is {config[name]!r}, but the weights have {found}",
                "shapes",
            )
    return sae


FAMILY = Family(
    "Neel 1L",
    recognised_by="`NAME.pt` with `NAME_cfg.json`",
    holds="standard SAEs",
    matches=lambda opened: (
        opened.config_file is not None
        and opened.config_file.name == f"{opened.weights.stem}_cfg.json"
    ),
    read=read,
)
