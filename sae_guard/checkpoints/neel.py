"""Neel Nanda's 1L SAEs and their kin: ``NAME.pt`` beside ``NAME_cfg.json``.

https://github.com/neelnanda-io/1L-Sparse-Autoencoder, `utils.py`. ReLU, b_dec taken off the input.
"""

from __future__ import annotations

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_ASSUMED = "ReLU, with b_dec taken off the input, as in the repository of this layout"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a ``NAME.pt`` with its ``NAME_cfg.json``.

    Raises:
        LoadError: The sizes in the config are not those of the weights.
    """
    facts = Facts("standard", None, pre_bias=True, normalize="none")
    check_agreement(facts, options, opened.weights)
    sae = assemble(opened.tensors, facts, opened.source("Neel 1L", _ASSUMED), opened.weights)
    config = opened.config or {}
    for name, found in (("act_size", sae.d_in), ("dict_size", sae.d_sae)):
        if config.get(name, found) != found:
            raise LoadError(
                f"{opened.config_file}: {name} is {config[name]!r}, but the weights have {found}"
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
