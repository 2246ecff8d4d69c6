"""AI Safety Foundation: one bias at both ends, and an axis for several SAEs in one file.

https://github.com/ai-safety-foundation/sparse_autoencoder, `autoencoder/model.py`. Since 1.4 the
file is a pickled `SparseAutoencoderState` with a config, read as a record; before, a state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, renamed
from sae_guard.checkpoints.format import Format, Opened, is_tensor
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.checkpoints.safe_pickle.inert import Record
from sae_guard.errors import LoadError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE

_NAMES = {
    "tied_bias": "b_dec",
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
}
_ALIASES = ("pre_encoder_bias._bias_reference", "post_decoder_bias._bias_reference")
_TYPES = {
    "sae": "standard",
    "unit_norm_decoder": "standard",
    "normalized_sae": "tanh_relu",
    "tanh_encoder": "tanh_relu",
}
_PREFIX = "sparse_autoencoder."
_READ = {"n_input_features", "n_learned_features", "n_components", "component_names", "type",
         "sae_type", "noise_scale"}  # fmt: skip
_OF_TRAINING = {
    "l1_coefficient", "l1_normalization_power", "l2_normalization_power", "resample_interval",
    "max_n_resamples", "resample_dead_neurons_dataset_size", "resample_loss_dataset_size",
    "resample_threshold_is_dead_portion_fires",
}  # fmt: skip
_ONE_STEP = 0.05
"""How far one step of an optimiser may have taken columns from length 1."""
_RELU = "the activation is ReLU, as in the library; a fork of it applies a tanh and has a config"


@dataclass(frozen=True)
class _State:
    """What a file holds: tensors under the names of the newest version, and a config or None."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None
    by_lightning: bool
    oldest: bool
    """Whether it may be of a version that normalises its decoder in every forward pass."""


def matches(opened: Opened) -> bool:
    """By the class of the object, or by the tied bias of a state dict."""
    record = opened.entries.get("__record__")
    if isinstance(record, Record):
        return type(record).__name__ == "SparseAutoencoderState"
    held = opened.entries.get("state_dict", opened.entries)
    return isinstance(held, Mapping) and bool({"tied_bias", f"{_PREFIX}tied_bias"} & held.keys())


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a file, or the component that ``#i`` or ``#blocks.3.hook_mlp_out`` says.

    relu((x − tied_bias) · encoder.weightᵀ + encoder.bias) · decoder.weightᵀ + tied_bias, and the
    tanh of the relu in a fork (https://github.com/HuFY-dev/sparse_autoencoder).

    Raises:
        LoadError: A component is not said or not there, the three copies of the bias differ, the
            encoder adds noise, the config does not fit the tensors or is not understood.
    """
    path = opened.weights
    state = _state(opened)
    tensors = _without_aliases(state.tensors, path)
    _check_config(state.config or {}, tensors, path)
    tensors, name = _component(tensors, state.config or {}, opened)
    if state.oldest:
        _check_unit_norm(tensors["decoder.weight"], path)
    architecture = _architecture(state, options, path)
    facts = Facts(architecture, None, pre_bias=True, normalize="none")
    check_agreement(facts, options, path)
    source = opened.source(
        "AI Safety Foundation",
        *([_RELU] if state.config is None and options.architecture is None else []),
        stored_dtype=str(tensors["encoder.weight"].dtype).removeprefix("torch."),
        hook_name=name,
    )
    return assemble(renamed(tensors, _NAMES), facts, source, path)


def _state(opened: Opened) -> _State:
    """The state dict, wherever it lies and whatever its age."""
    whole = opened.entries.get("__record__", opened.entries)
    fields = _fields(whole) or {}
    held = fields.get("state_dict", fields)
    if not isinstance(held, Mapping):
        raise LoadError(f"{opened.weights}: state_dict is a {type(held).__name__}", "keys")
    config = _fields(fields.get("config"))
    if config is None and isinstance(whole, Record):
        raise LoadError(f"{opened.weights}: a {type(whole).__name__} without its config", "keys")
    by_lightning = any(str(name).startswith(_PREFIX) for name in held)
    tensors = {}
    for name, value in held.items():
        if by_lightning and not str(name).startswith(_PREFIX):
            continue  # of the losses and metrics of the training
        if not is_tensor(value):
            raise LoadError(f"{opened.weights}: {name} is a {type(value).__name__}", "keys")
        tensors[_without_underscores(str(name).removeprefix(_PREFIX))] = value
    return _State(tensors, config, by_lightning, oldest="_decoder._weight" in held)


def _without_underscores(name: str) -> str:
    """The name since version 1.3."""
    bare = name.removeprefix("_")
    return bare.replace("._", ".") if bare.endswith(("._weight", "._bias")) else bare


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a mapping, or of a pydantic object that was read as a record."""
    if isinstance(value, Record):
        held, extra = (vars(value).get(f"__{name}__") for name in ("dict", "pydantic_extra"))
        value = {**held, **extra} if isinstance(held, dict) and isinstance(extra, dict) else held
    return {str(n): v for n, v in value.items()} if isinstance(value, Mapping) else None


def _without_aliases(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The four tensors; the bias is saved three times."""
    kept = {name: tensor for name, tensor in tensors.items() if name not in _ALIASES}
    if not {"tied_bias", "encoder.weight"} <= kept.keys():
        raise LoadError(
            f"{path}: no tied_bias and encoder.weight; there is: {', '.join(sorted(kept))} "
            "(versions before 0.10, whose forward pass changed from one to the next, are not read)",
            "keys",
        )
    for alias in _ALIASES:
        if alias in tensors and not tensors[alias].equal(kept["tied_bias"]):
            raise LoadError(
                f"{path}: {alias} differs from tied_bias; the library has one bias for both ends",
                "keys",
            )
    return kept


def _check_unit_norm(W_dec: Tensor, path: Path) -> None:
    """The first versions made the rows of [d_in, d_sae] unit, at run time; the next the columns."""
    lengths = W_dec.float().norm(dim=0)
    if bool(((lengths - 1).abs() > _ONE_STEP).any()):
        raise LoadError(
            f"{path}: _decoder._weight has columns of lengths {float(lengths.min()):.4g} to "
            f"{float(lengths.max()):.4g}; with these names only decoders of unit columns are read: "
            "the first versions normalise others in every forward pass, along the other axis",
            "scale",
        )


def _check_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    strange = sorted(config.keys() - _READ - _OF_TRAINING)
    if strange:
        raise LoadError(f"{path}: config: not understood: {', '.join(strange)}")
    W_enc = tensors["encoder.weight"]
    if W_enc.ndim not in (2, 3):
        raise LoadError(
            f"{path}: encoder.weight has shape {list(W_enc.shape)}, expected [d_sae, d_in], or "
            "[components, d_sae, d_in]",
            "shapes",
        )
    found = {
        "n_input_features": W_enc.shape[-1],
        "n_learned_features": W_enc.shape[-2],
        "n_components": W_enc.shape[0] if W_enc.ndim == 3 else None,
    }
    for field, size in found.items():
        said = config.get(field, size)
        if type(said) is not type(size) or said != size:
            raise LoadError(
                f"{path}: config: {field} is {said!r}, but encoder.weight has shape "
                f"{list(W_enc.shape)}",
                "shapes",
            )


def _component(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], opened: Opened
) -> tuple[dict[str, Tensor], str | None]:
    """One component without its axis, which is there even where there is only one; its hook."""
    path, W_enc = opened.weights, tensors["encoder.weight"]
    count = W_enc.shape[0] if W_enc.ndim == 3 else 1
    names = config.get("component_names")
    if names is not None and not (
        isinstance(names, list) and len(names) == count and all(isinstance(n, str) for n in names)
    ):
        raise LoadError(
            f"{path}: config: component_names is {names!r}, expected {count} texts", "keys"
        )
    hooks = names or [None] * count
    if W_enc.ndim == 2:
        if opened.name is not None and opened.name not in hooks:
            raise LoadError(f"{path} has no axis of components: it holds one SAE, without a name")
        return dict(tensors), hooks[0]
    indices = [str(index) for index in range(count)]
    chosen = opened.name if opened.name in indices else opened.selected_name(names or indices)
    index = int(chosen) if chosen in indices else hooks.index(chosen)
    flat = {n: t for n, t in tensors.items() if t.ndim == 0 or t.shape[0] != count}
    if flat:
        raise LoadError(
            f"{path}: {', '.join(flat)}: no axis of {count} components, which encoder.weight has",
            "shapes",
        )
    return {name: tensor[index] for name, tensor in tensors.items()}, hooks[index]


def _architecture(state: _State, options: SaeOptions, path: Path) -> str:
    """standard or tanh_relu: the tensors are the same, only the config of the fork tells them."""
    if state.config is None:
        if state.by_lightning and options.architecture is None:
            choice = "standard, or tanh_relu (of a fork)"
            raise ambiguous(f"{path} is ambiguous", "activation", ("architecture", choice))
        said = options.architecture or "standard"
        if said not in _TYPES.values():
            raise LoadError(
                f"{path}: the `sae` options say architecture {said!r}, allowed: standard or "
                "tanh_relu",
                "activation",
                options=("architecture",),
            )
        return said
    kind = state.config.get("type", state.config.get("sae_type", "sae"))
    if not isinstance(kind, str) or kind not in _TYPES:
        raise LoadError(
            f"{path}: config: the type is {kind!r}; {allowed(str(kind), _TYPES)}", "activation"
        )
    noise = state.config.get("noise_scale", 0)
    if _TYPES[kind] == "tanh_relu" and (type(noise) not in (int, float) or noise != 0):
        raise LoadError(
            f"{path}: config: noise_scale is {noise!r}: in every forward pass the encoder adds "
            "Gaussian noise before its activation, so one input has no one reconstruction; "
            "allowed: 0",
            "deterministic",
        )
    return _TYPES[kind]


FORMAT = Format(
    name="AI Safety Foundation",
    recognised_by="a pickled `SparseAutoencoderState`, or the key `tied_bias`",
    holds="standard SAEs, and tanh_relu ones of a fork; a component of several is `FILE.pt#0`",
    matches=matches,
    read=read,
    several=True,
)
