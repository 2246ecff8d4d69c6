"""mats_sae_training and SAELens of 2024: one ``.pt`` with ``cfg`` and ``state_dict``.

https://github.com/jbloomAus/SAELens at v0.1 to v2.1. The config is a pickled object of the training
package, read as a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sae_guard.checkpoints import saelens_before_6
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.inert import Record
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

_PLAIN = (str, int, float, bool, dict, type(None))


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a single file; raises `LoadError` as for a folder of that age."""
    tensors, said = opened.entries["state_dict"], opened.entries["cfg"]
    if not isinstance(tensors, Mapping):
        raise LoadError(f"{opened.weights}: state_dict is {type(tensors).__name__}")
    if "b_dec_out" in tensors:
        raise LoadError(f"{opened.weights}: b_dec_out: transcoders are not read yet")
    config = _config(said)
    if "d_in" not in config:
        raise LoadError(
            f"{opened.weights}: cfg ({type(said).__name__}) has no d_in; it has: "
            f"{', '.join(sorted(config)) or 'nothing'}"
        )
    whole = replace(opened, entries=tensors, config=config, config_file=opened.weights)
    return saelens_before_6.read(whole, options, family="mats_sae_training")


def _config(said: Any) -> dict[str, Any]:
    facts = vars(said) if isinstance(said, Record) else said
    plain = facts if isinstance(facts, Mapping) else {}
    return {str(name): value for name, value in plain.items() if isinstance(value, _PLAIN)}


FAMILY = Family(
    "mats_sae_training",
    recognised_by="a `.pt` file with `cfg` and `state_dict`",
    holds="standard SAEs; not transcoders",
    matches=lambda opened: {"cfg", "state_dict"} <= opened.entries.keys(),
    read=read,
)
