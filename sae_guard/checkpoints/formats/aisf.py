"""AI Safety Foundation: one bias for input and output, and an axis for several SAEs in one file.

https://github.com/ai-safety-foundation/sparse_autoencoder, `autoencoder/model.py`. Since 1.4 the
file is a pickled `SparseAutoencoderState` with a config, read as an inert object; before 1.4 it is
a state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, renamed
from sae_guard.checkpoints.declarations import check_known
from sae_guard.checkpoints.format import Format, Opened, is_tensor
from sae_guard.checkpoints.options import SaeOptions, ambiguous
from sae_guard.checkpoints.safe_pickle.inert import InertObject
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
_FIELDS = {
    "n_input_features", "n_learned_features", "n_components", "component_names", "type", "sae_type",
    "noise_scale",
    # Of the training alone.
    "l1_coefficient", "l1_normalization_power", "l2_normalization_power", "resample_interval",
    "max_n_resamples", "resample_dead_neurons_dataset_size", "resample_loss_dataset_size",
    "resample_threshold_is_dead_portion_fires",
}  # fmt: skip
_ONE_STEP = 0.05
"""Largest distance from 1 of a column's length: one step of an optimiser after normalisation."""
_RELU = "the activation is ReLU, as in the library; a fork of it applies a tanh and has a config"


@dataclass(frozen=True)
class _State:
    """Content of a file: tensors under the names of the newest version, and a config or None."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None
    by_lightning: bool
    """True for a checkpoint of PyTorch Lightning, whose keys have a prefix."""
    oldest: bool
    """True where the version may normalise its decoder in every forward pass."""


def matches(opened: Opened) -> bool:
    """Recognise the format by the class of the object, or by the tied bias of a state dict."""
    inert = opened.entries.get("__record__")
    if isinstance(inert, InertObject):
        return type(inert).__name__ == "SparseAutoencoderState"
    state = opened.entries.get("state_dict", opened.entries)
    return isinstance(state, Mapping) and bool({"tied_bias", f"{_PREFIX}tied_bias"} & state.keys())


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a file, or its component ``#i`` or ``#blocks.3.hook_mlp_out``.

    relu((x − tied_bias) · encoder.weightᵀ + encoder.bias) · decoder.weightᵀ + tied_bias, with
    tanh(relu(…)) in a fork (https://github.com/HuFY-dev/sparse_autoencoder).

    Raises:
        LoadError: The reference names no component or an unknown one, the three copies of the bias
            differ, the encoder adds noise, or the config is unknown in part or does not fit.
    """
    path = opened.weights
    state = _state(opened)
    tensors = _without_aliases(state.tensors, path)
    _check_config(state.config or {}, tensors, path)
    tensors, name = _component(tensors, state.config or {}, opened)
    if state.oldest:
        _check_unit_norm(tensors["decoder.weight"], path)
    architecture = _architecture(state, options, path)
    settings = ForwardSettings(architecture, pre_bias=True)
    source = opened.source(
        "AI Safety Foundation",
        *([_RELU] if state.config is None and options.architecture is None else []),
        stored_dtype=str(tensors["encoder.weight"].dtype).removeprefix("torch."),
        hook_name=name,
    )
    return assemble(renamed(tensors, _NAMES), settings, source, path)


def _state(opened: Opened) -> _State:
    """Return the state of a file of any version."""
    saved = opened.entries.get("__record__", opened.entries)
    fields = _fields(saved) or {}
    state_dict = fields.get("state_dict", fields)
    if not isinstance(state_dict, Mapping):
        raise LoadError(
            f"{opened.weights}: state_dict is a {type(state_dict).__name__}, expected a mapping",
            "keys",
        )
    config = _fields(fields.get("config"))
    if config is None and isinstance(saved, InertObject):
        raise LoadError(f"{opened.weights}: a {type(saved).__name__} without its config", "keys")
    by_lightning = any(str(name).startswith(_PREFIX) for name in state_dict)
    tensors = {}
    for name, value in state_dict.items():
        if by_lightning and not str(name).startswith(_PREFIX):
            continue  # losses and metrics of the training
        if not is_tensor(value):
            raise LoadError(
                f"{opened.weights}: {name} is a {type(value).__name__}, expected a tensor", "keys"
            )
        tensors[_without_underscores(str(name).removeprefix(_PREFIX))] = value
    return _State(tensors, config, by_lightning, oldest="_decoder._weight" in state_dict)


def _without_underscores(name: str) -> str:
    """Return the name of the tensor since version 1.3."""
    bare = name.removeprefix("_")
    return bare.replace("._", ".") if bare.endswith(("._weight", "._bias")) else bare


def _fields(value: Any) -> dict[str, Any] | None:
    """Return the fields of a mapping, or of a pydantic object that was read as an inert object."""
    if isinstance(value, InertObject):
        declared, extra = (vars(value).get(f"__{name}__") for name in ("dict", "pydantic_extra"))
        value = declared
        if isinstance(declared, dict) and isinstance(extra, dict):
            value = {**declared, **extra}
    return {str(n): v for n, v in value.items()} if isinstance(value, Mapping) else None


def _without_aliases(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the four tensors without the two further copies of the bias."""
    unique = {name: tensor for name, tensor in tensors.items() if name not in _ALIASES}
    if not {"tied_bias", "encoder.weight"} <= unique.keys():
        raise LoadError(
            f"{path}: expected tied_bias and encoder.weight; the file has: "
            f"{', '.join(sorted(unique))} (versions before 0.10 are not read, as their forward "
            "passes differ)",
            "keys",
        )
    for alias in _ALIASES:
        if alias in tensors and not tensors[alias].equal(unique["tied_bias"]):
            raise LoadError(
                f"{path}: {alias} differs from tied_bias; allowed: a copy of it, as the library "
                "has one bias for input and output",
                "keys",
            )
    return unique


def _check_unit_norm(W_dec: Tensor, path: Path) -> None:
    """Refuse a decoder [d_in, d_sae] whose columns are not of unit norm.

    The first versions normalise rows in every forward pass, later ones the columns: only for unit
    columns does the version not matter.
    """
    lengths = W_dec.float().norm(dim=0)
    if bool(((lengths - 1).abs() > _ONE_STEP).any()):
        raise LoadError(
            f"{path}: _decoder._weight has columns of lengths {float(lengths.min()):.4g} to "
            f"{float(lengths.max()):.4g}, allowed: {1 - _ONE_STEP:g} to {1 + _ONE_STEP:g} (the "
            "first versions, with the same names, normalise rows in every forward pass instead)",
            "scale",
        )


def _check_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    check_known(config, _FIELDS, f"{path}: config")
    W_enc = tensors["encoder.weight"]
    if W_enc.ndim not in (2, 3):
        raise LoadError(
            f"{path}: encoder.weight has shape {list(W_enc.shape)}, expected [d_sae, d_in], or "
            "[components, d_sae, d_in]",
            "shapes",
        )
    sizes = {
        "n_input_features": W_enc.shape[-1],
        "n_learned_features": W_enc.shape[-2],
        "n_components": W_enc.shape[0] if W_enc.ndim == 3 else None,
    }
    for field, size in sizes.items():
        stated = config.get(field, size)
        if type(stated) is not type(size) or stated != size:
            raise LoadError(
                f"{path}: config: {field} is {stated!r}, but encoder.weight has shape "
                f"{list(W_enc.shape)}",
                "shapes",
            )


def _component(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], opened: Opened
) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of one component without their first axis, and its hook point.

    Files with one component may have the axis too.
    """
    path, W_enc = opened.weights, tensors["encoder.weight"]
    count = W_enc.shape[0] if W_enc.ndim == 3 else 1
    names = config.get("component_names")
    if names is not None and not (
        isinstance(names, list) and len(names) == count and all(isinstance(n, str) for n in names)
    ):
        raise LoadError(
            f"{path}: config: component_names is {names!r}, expected a list of {count} texts",
            "keys",
        )
    hooks = names or [None] * count
    if W_enc.ndim == 2:
        if opened.name is not None and opened.name not in hooks:
            raise LoadError(
                f"{path}#{opened.name}: the file holds a single SAE, of another name or none; "
                f"remove #{opened.name}"
            )
        return dict(tensors), hooks[0]
    indices = [str(index) for index in range(count)]
    name = opened.name if opened.name in indices else opened.selected_name(names or indices)
    index = int(name) if name in indices else hooks.index(name)
    flat = {n: t for n, t in tensors.items() if t.ndim == 0 or t.shape[0] != count}
    if flat:
        raise LoadError(
            f"{path}: {', '.join(flat)}: no axis of {count} components, which encoder.weight has",
            "shapes",
        )
    return {name: tensor[index] for name, tensor in tensors.items()}, hooks[index]


def _architecture(state: _State, options: SaeOptions, path: Path) -> str:
    """Return standard or tanh_relu by the config of the fork or the options: the tensors agree."""
    if state.config is None:
        if state.by_lightning and options.architecture is None:
            choice = "standard, or tanh_relu (of a fork)"
            raise ambiguous(f"{path} is ambiguous", "activation", ("architecture", choice))
        architecture = options.architecture or "standard"
        if architecture not in _TYPES.values():
            raise LoadError(
                f"{path}: the `sae` options say architecture {architecture!r}, allowed: standard "
                "or tanh_relu",
                "activation",
                options=("architecture",),
            )
        return architecture
    kind = state.config.get("type", state.config.get("sae_type", "sae"))
    if not isinstance(kind, str) or kind not in _TYPES:
        raise LoadError(
            f"{path}: config: the type is {kind!r}; {allowed(str(kind), _TYPES)}", "activation"
        )
    noise = state.config.get("noise_scale", 0)
    if _TYPES[kind] == "tanh_relu" and (type(noise) not in (int, float) or noise != 0):
        raise LoadError(
            f"{path}: config: noise_scale is {noise!r}, allowed: 0 (otherwise the encoder adds "
            "Gaussian noise in every forward pass, and the same input gives other latents)",
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
