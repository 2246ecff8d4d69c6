"""SAELens 6 folders: ``cfg.json`` with a version, beside ``sae_weights.safetensors``.

https://github.com/jbloomAus/SAELens, `saes/*.py`. Transcoders do not subtract b_dec from their
input, and do not undo its normalisation.

SAELens applies the scale of ``expected_average_only_in`` outside of the SAE during training, and
folds it into the weights at the end of the run. So the scale is in the weights, in a file beside
them (`training/activation_scaler.py` since version 6, `training/activations_store.py` before), or
lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from sae_guard.checkpoints.assemble import ForwardSettings, assemble, check_sizes
from sae_guard.checkpoints.declarations import Declaration, check_known, flag, text_or_none
from sae_guard.checkpoints.files import CheckpointFiles, read_config, sha256
from sae_guard.checkpoints.format import FolderLayout, Format, Opened
from sae_guard.checkpoints.formats import saelens_training
from sae_guard.checkpoints.options import Normalize, SaeOptions, ambiguous
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE


@dataclass(frozen=True)
class Kind:
    """Properties of an architecture of SAELens."""

    activation: str
    fields: frozenset[str] = frozenset()
    """Config fields of this architecture that the forward pass reads."""
    transcoder: bool = False
    skip: bool = False


_RESCALE = frozenset({"rescale_acts_by_decoder_norm"})
_D_OUT = frozenset({"d_out"})
KINDS: Mapping[str, Kind] = {
    "standard": Kind("standard"),
    "topk": Kind("topk", _RESCALE | {"k"}),
    "abstopk": Kind("abstopk", _RESCALE | {"k"}),
    "jumprelu": Kind("jumprelu"),
    "gated": Kind("gated"),
    # Checkpoints of a run in progress, which ends with a JumpReLU SAE; k is that of the training.
    **dict.fromkeys(saelens_training.BATCHTOPK, Kind("jumprelu", _RESCALE | {"k"})),
    "transcoder": Kind("standard", _D_OUT, transcoder=True),
    "skip_transcoder": Kind("standard", _D_OUT, transcoder=True, skip=True),
    "jumprelu_transcoder": Kind("jumprelu", _D_OUT, transcoder=True),
    "jumprelu_skip_transcoder": Kind("jumprelu", _D_OUT, transcoder=True, skip=True),
}
_COMMON = {
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input",
    "normalize_activations", "reshape_activations", "metadata", "sae_lens_version",
}  # fmt: skip
_DECLARED = (
    "model_name", "hook_name", "prepend_bos", "context_size", "exclude_special_tokens",
    "seqpos_slice", "model_from_pretrained_kwargs", "sae_lens_version",
    "sae_lens_training_version",
)  # fmt: skip


def read(opened: Opened, options: SaeOptions) -> SAE:
    """Load the SAE of a SAELens 6 folder.

    Raises:
        LoadError: The architecture or a config field is unknown, the scale of the activations is
            not stored, or an option contradicts the config.
    """
    path, config = config_of(opened)
    metadata = config.get("metadata", {})
    if not isinstance(metadata, dict):
        raise LoadError(f"{path}: metadata is {metadata!r}, expected an object")
    return build(opened, config, metadata, opened.tensors, options, "SAELens 6")


def config_of(opened: Opened) -> tuple[Path, Mapping[str, Any]]:
    """Return the path of the config and its content."""
    if opened.config_file is None or opened.config is None:
        raise LoadError(f"{opened.path}: a SAELens folder without its config, expected cfg.json")
    return opened.config_file, opened.config


def build(
    opened: Opened,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    options: SaeOptions,
    format_name: str,
    *,
    kinds: Mapping[str, Kind] = KINDS,
    latent_scale: Tensor | None = None,
) -> SAE:
    """Build the SAE of a config in the form of SAELens 6.

    Args:
        opened: The files.
        config: The config, upgraded to the form of SAELens 6.
        metadata: Metadata of the training, such as the hook point.
        tensors: The weights under the names of SAELens 6.
        options: The options of the user.
        format_name: Name of the format in the provenance.
        kinds: The architectures that the version has.
        latent_scale: Factor per latent [d_sae] of finetuned SAEs.

    Raises:
        LoadError: As `read`.
    """
    path, _ = config_of(opened)
    if metadata.get("hook_head_index") is not None:
        raise LoadError(
            f"{path}: hook_head_index is {metadata['hook_head_index']!r}, allowed: null (SAEs of "
            "a single attention head are not read)"
        )
    architecture = _one_of(config, "architecture", tuple(kinds), path)
    kind = kinds[architecture]
    scale = scale_of(_normalization(config, path), opened.path, options, path)
    settings = _settings(config, architecture, kind, scale.factor, path)
    in_training = architecture in saelens_training.BATCHTOPK
    source = opened.source(
        format_name,
        *([saelens_training.ASSUMED] if in_training else []),
        **{name: metadata.get(name) for name in _DECLARED},
        hook_name_out=metadata.get("hook_name_out") if kind.transcoder else None,
        **saelens_training.training(opened.path, architecture, metadata),
    )
    if scale.file is not None:
        source = replace(source, files={**source.files, scale.file.name: sha256(scale.file)})
    if in_training:
        tensors = saelens_training.with_threshold(tensors, opened.weights)
    _check_optional(tensors, kind, opened.weights)
    if latent_scale is not None:
        tensors = {**tensors, "latent_scale": latent_scale}
    sae = assemble(tensors, settings, source, opened.weights)
    sizes = {"d_in": sae.d_in, "d_sae": sae.d_sae, "d_out": sae.d_out}
    required = ("d_in", "d_sae", "d_out") if sae.transcoder else ("d_in", "d_sae")
    # None equals no size: a config that lacks a required one is refused.
    check_sizes(dict.fromkeys(required) | {**config}, sizes, path)
    return sae


def _check_optional(tensors: Mapping[str, Tensor], kind: Kind, path: Path) -> None:
    """Refuse optional canonical tensors that no such SAE of SAELens has, and require W_skip."""
    unknown = {"b_pre", "latent_scale", "W_skip"} & tensors.keys() - (
        {"W_skip"} if kind.skip else set()
    )
    if unknown:
        raise LoadError(
            f"{path}: not understood: {_list(unknown)}; SAELens stores none for this architecture",
            "keys",
        )
    if kind.skip and "W_skip" not in tensors:
        raise LoadError(f"{path}: missing: W_skip, which a skip transcoder has", "keys")


def version(config: Mapping[str, Any]) -> str | None:
    """Return the version of SAELens that wrote the config; None before 6, which wrote none."""
    metadata = config.get("metadata")
    inner = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    value = config.get("sae_lens_version", inner)
    return None if value is None else str(value)


def _settings(
    config: Mapping[str, Any], architecture: str, kind: Kind, scale: float, path: Path
) -> ForwardSettings:
    fields = _COMMON | kind.fields | saelens_training.fields(architecture)
    check_known(config, fields, path, contract="activation", where=f"for a {architecture} SAE")
    _one_of(config, "reshape_activations", ("none", "hook_z"), path, default="none")
    k = config.get("k") if architecture == kind.activation else None
    if k is not None and type(k) is not int:
        raise LoadError(f"{path}: k is {k!r}, expected a whole number", "activation")
    stored_flag = partial(flag, config, path=path, contract="activation")
    pre_bias = stored_flag("apply_b_dec_to_input", default=not kind.transcoder)
    if pre_bias and kind.transcoder:
        raise LoadError(
            f"{path}: apply_b_dec_to_input is True, allowed in a {architecture}: False, since "
            "b_dec belongs to the output activation",
            "activation",
        )
    normalization = _normalization(config, path)
    rescaled = stored_flag("rescale_acts_by_decoder_norm")
    return ForwardSettings(
        architecture=kind.activation,
        k=k,
        pre_bias=pre_bias,
        normalize="none" if normalization in UNFOLDED else normalization,  # type: ignore[arg-type]
        denormalize=not kind.transcoder,
        rescale_by_decoder_norm="latents" if rescaled else "none",
        scale_in=scale,
        scale_out=scale,
        transcoder=kind.transcoder,
    )


def _normalization(config: Mapping[str, Any], path: Path) -> str:
    return _one_of(
        config, "normalize_activations", (*get_args(Normalize), *UNFOLDED), path, default="none"
    )


def _one_of(
    config: Mapping[str, Any], key: str, names: tuple[str, ...], path: Path, default: str = ""
) -> str:
    value = config.get(key) or default
    if value not in names:
        raise LoadError(
            f"{path}: {key} is {config.get(key)!r}, allowed: {_list(names)}", "activation"
        )
    return str(value)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


_WEIGHTS = "sae_weights.safetensors"
FOLDERS = (FolderLayout("cfg.json", _WEIGHTS, rank=-1),)


def is_folder(files: CheckpointFiles) -> bool:
    """Return whether the files have the names of any version of SAELens."""
    return files.weights.name == _WEIGHTS and files.config is not None


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read the model and hook points from a config of any version.

    Raises:
        LoadError: A name is no text.
    """
    config, path = files.config, files.config_file
    if not is_folder(files) or config is None or path is None:
        return None
    metadata = config.get("metadata")
    values = {**config, **(metadata if isinstance(metadata, dict) else {})}
    hook = text_or_none(values.get("hook_name", values.get("hook_point")), path, "hook_name")
    if hook is not None:  # versions 1 and 2 store the layer in a field of its own
        hook = hook.replace("{layer}", str(values.get("hook_point_layer")))
    transcoder = "transcoder" in str(config.get("architecture"))
    return Declaration(
        text_or_none(values.get("model_name"), path, "model_name"),
        hook,
        text_or_none(values.get("hook_name_out"), path, "hook_name_out") if transcoder else None,
    )


FORMAT = Format(
    name="SAELens 6",
    recognised_by="a folder with `cfg.json` (with a `sae_lens_version`) and "
    "`sae_weights.safetensors`",
    holds="standard, topk, abstopk, jumprelu and gated SAEs, transcoders with and without a skip "
    "connection, and checkpoints of a run in progress; needs the option scale if "
    "normalize_activations implies one that no file stores",
    folders=FOLDERS,
    declare=declare,
    matches=lambda opened: is_folder(opened) and version(opened.config or {}) is not None,
    read=read,
)


# SAELens applies none of these at run time, and writes "none" once it has folded them in.
UNFOLDED = ("expected_average_only_in", "covariance_whitening")
_SCALER = "activation_scaler.json"
_WHITENING = "activation_whitening.safetensors"
_STORE = "activations_store_state.safetensors"
_STORED = "estimated_norm_scaling_factor"


class Scale(NamedTuple):
    """Factor of the input, and the file that stores it."""

    factor: float
    file: Path | None = None


def scale_of(normalization: str, folder: Path, options: SaeOptions, config: Path) -> Scale:
    """Return the factor of the input.

    Args:
        normalization: ``normalize_activations`` of the config.
        folder: Folder of the checkpoint, which may store the factor in another file.
        options: The options of the user.
        config: Path of the config, for messages.

    Raises:
        LoadError: The factor is neither stored nor in the options, the options contradict the
            stored one, or the activations are whitened outside of the weights.
    """
    stored = _stored_scale(folder)
    if normalization not in UNFOLDED:
        if stored is not None:
            raise LoadError(
                f"{stored.file}: a scale of {stored.factor:g}, but {config} has "
                f"normalize_activations {normalization!r}; allowed: 'expected_average_only_in', "
                "or no stored scale",
                "scale",
            )
        return Scale(1.0)
    if normalization == "covariance_whitening":
        if stored is None and options.scale == "folded":
            return Scale(1.0)
        raise _undecided(normalization, config, "folded (a whitening is read only if folded)")
    if stored is not None:
        if options.scale == "folded":
            raise LoadError(
                f"{stored.file}: a scale of {stored.factor:g} that is not in the weights, the "
                "`sae` options say folded; allowed: no scale in the options",
                "scale",
                options=("scale",),
            )
        return stored
    if isinstance(options.scale, float):
        return Scale(options.scale)
    if options.scale == "folded":
        return Scale(1.0)
    raise _undecided(
        normalization,
        config,
        "folded (the weights include it)",
        "the factor, sqrt(d_in) / the mean norm of the activations",
    )


def _undecided(normalization: str, config: Path, *choices: str) -> LoadError:
    return ambiguous(
        f"{config} is ambiguous: normalize_activations is {normalization!r}, but no file beside "
        "it stores the scale (SAELens writes 'none' once the scale is folded into the weights)",
        "scale",
        *(("scale", choice) for choice in choices),
    )


def _stored_scale(folder: Path) -> Scale | None:
    """Read the scale that a checkpoint of a run in progress stores beside its weights."""
    if not folder.is_dir():
        return None
    scaler, store = folder / _SCALER, folder / _STORE
    scale = None
    if scaler.exists():
        state = read_config(scaler)
        _check_no_whitening(state, scaler)
        if state.get("scaling_factor") is not None:
            scale = Scale(_factor(state["scaling_factor"], scaler, "scaling_factor"), scaler)
    if scale is None and store.exists():
        estimated = _estimated(store)
        scale = None if estimated is None else Scale(estimated, store)
    return scale


def _check_no_whitening(state: Mapping[str, Any], scaler: Path) -> None:
    """Refuse a whitening: it is a matrix on the input and output, which no scale can express."""
    if state.get("has_whitening", scaler.with_name(_WHITENING).exists()):
        raise LoadError(
            f"{scaler}: has_whitening is {state.get('has_whitening')!r}: a checkpoint of a run in "
            "progress, whose weights expect whitened activations; gate the checkpoint that "
            "`save_inference_model` writes",
            "scale",
        )


def _estimated(store: Path) -> float | None:
    """Read the factor only: the file also has a large buffer of activations."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(store, framework="pt") as file:
            if _STORED not in file.keys():  # noqa: SIM118
                return None
            tensor = file.get_tensor(_STORED)
    except (OSError, ValueError, SafetensorError) as error:
        raise LoadError(f"{store}: unreadable: {error}") from error
    return _factor(tensor.item() if tensor.numel() == 1 else tensor.tolist(), store, _STORED)


def _factor(value: Any, path: Path, key: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise LoadError(f"{path}: {key} is {value!r}, allowed: a number above 0", "scale")
    return float(value)
