"""Formats that are recognised and refused: they hold no SAE of one token at one hook point.

Their rules are narrow, so that no checkpoint of another format is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.format import FolderLayout, Format, Opened, is_tensor
from sae_guard.checkpoints.formats.openmoss_config import unwrapped
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from sae_guard.sae import SAE


def _rank(opened: Opened, name: str) -> int | None:
    tensor = opened.entries.get(name)
    return tensor.ndim if is_tensor(tensor) else None


def _says(opened: Opened, key: str, *values: str) -> bool:
    return opened.config is not None and opened.config.get(key) in values


def _any_key(opened: Opened, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in opened.entries)


def _inert_objects(values: Iterable[Any], depth: int = 3) -> Iterator[InertObject]:
    """Yield the pickled objects among values, and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, InertObject):
            yield value
        elif isinstance(value, list | tuple) and depth > 1:  # a list may contain itself
            yield from _inert_objects(value, depth - 1)


def _temporal(opened: Opened) -> bool:
    names = opened.weights.name, opened.config_file.name if opened.config_file else ""
    return (
        _says(opened, "architecture", "temporal")
        or names == ("latest_ckpt.safetensors", "conf.yaml")
        or _any_key(opened, r"attn_layers\.\d")
    )


def _lorsa(opened: Opened) -> bool:
    heads = {"W_Q", "W_K", "W_V", "W_O"} <= opened.entries.keys()
    return heads or _says(opened, "sae_type", "lorsa")


def _molt(opened: Opened) -> bool:
    factors = _any_key(opened, r"U_matrices\.") and _any_key(opened, r"V_matrices\.")
    return factors or _says(opened, "sae_type", "molt")


def _cross_layer(opened: Opened) -> bool:
    return (
        _says(opened, "sae_type", "clt")
        or (
            _any_key(opened, r"W_(enc|dec)_\d+$") and "encoder.weight" not in opened.entries
        )  # mntss
        or _any_key(opened, r"W_decs\.")  # a branch of sparsify
        or _rank(opened, "w_dec") == 3  # Gemma Scope 2
        or (_rank(opened, "W_E") == 3 and _any_key(opened, r"W_D\.\d+$"))  # OpenMOSS
    )


def _crosscoder(opened: Opened) -> bool:
    config = opened.config_file.name if opened.config_file else ""
    return (
        _says(opened, "sae_type", "crosscoder", "mixcoder")
        or (opened.weights.name, config) == ("cc_weights.pt", "cfg.json")
        or 3 in (_rank(opened, "W_E"), _rank(opened, "W_enc"))
        or (_rank(opened, "encoder.weight"), _rank(opened, "decoder.bias")) == (3, 2)
    )


def _matching_pursuit(opened: Opened) -> bool:
    only_a_decoder = opened.entries.keys() == {"W_dec", "b_dec"}
    return only_a_decoder or _says(opened, "architecture", "matching_pursuit")


def _sae_group(opened: Opened) -> bool:
    return any(
        type(inert).__name__ == "SAEGroup" for inert in _inert_objects(opened.entries.values())
    )


def _learned_dicts(opened: Opened) -> bool:
    packages = (type(r).__module__.split(".")[0] for r in _inert_objects(opened.entries.values()))
    return "autoencoders" in packages


def _format(
    name: str, recognised_by: str, reason: str, matches: Callable[[Opened], bool],
    *folders: FolderLayout,
) -> Format:  # fmt: skip
    def read(opened: Opened, options: SaeOptions) -> SAE:
        raise LoadError(f"{opened.path}: recognised as {name} and refused: {reason}")

    return Format(
        name=name,
        recognised_by=recognised_by,
        holds=f"refused: {reason}",
        folders=folders,
        matches=lambda opened: matches(unwrapped(opened)),
        read=read,
        several=True,  # a reference with a name is refused for the same reason
        refused=True,
    )


FORMATS = (
    _format(
        "temporal SAE",
        "`architecture` temporal in `cfg.json`, `conf.yaml` with `latest_ckpt.safetensors`, or the "
        "keys `attn_layers.*`",
        "its latents of a token depend on the tokens before it, through attention layers",
        _temporal,
        FolderLayout("conf.yaml", "latest_ckpt.safetensors", rank=2),
    ),
    _format(
        "Lorsa",
        "the keys `W_Q`, `W_K`, `W_V` and `W_O`, or `sae_type` lorsa",
        "it replaces an attention layer, so its latents of a token depend on the tokens before it",
        _lorsa,
    ),
    _format(
        "mixture of linear transforms (MOLT)",
        "the keys `U_matrices.*` and `V_matrices.*`, or `sae_type` molt",
        "its latents have no decoder rows: each switches a linear transform of the input on",
        _molt,
    ),
    _format(
        "cross-layer transcoder",
        "the keys `W_enc_N` or `W_dec_N`, `W_decs.*`, `W_D.N` beside a `W_E` of three dimensions, "
        "a `w_dec` of three dimensions, or `sae_type` clt",
        "each of its layers writes to all layers after it, so no layer of it has a reconstruction "
        "of its own",
        _cross_layer,
    ),
    _format(
        "crosscoder",
        "`cfg.json` with `cc_weights.pt`, a `W_E` or `W_enc` of three dimensions, or `sae_type` "
        "crosscoder",
        "it reads and reconstructs several hook points or models at once",
        _crosscoder,
        FolderLayout("cfg.json", "cc_weights.pt"),
    ),
    _format(
        "matching pursuit SAE",
        "the keys `W_dec` and `b_dec` alone, or `architecture` matching_pursuit",
        "its encoder is a search in steps over the decoder rows, not a matrix and an activation",
        _matching_pursuit,
    ),
    _format(
        "SAEGroup",
        "a pickled object of that class (SAELens of 2024)",
        "it is an object of Python with several SAEs in it, not their tensors; save each of them "
        "by itself",
        _sae_group,
    ),
    _format(
        "learned dicts",
        "pickled objects of the package `autoencoders` (HoagyC's sparse_coding)",
        "they are objects of Python whose code decides what they compute; save the tensors of one",
        _learned_dicts,
    ),
)
"""Refused formats, which are tried before all others."""
