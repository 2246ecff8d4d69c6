"""SAELens 6 folders: ``cfg.json`` with a version, beside ``sae_weights.safetensors``.

https://github.com/jbloomAus/SAELens, `saes/*.py`. Transcoders do not take b_dec off their input,
and do not undo a normalisation of it.

The scale of the activations is folded into the weights, in a file beside them, or lost:
`training/activation_scaler.py` since 6 and `training/activations_store.py` before it. The scale of
``expected_average_only_in`` is applied outside of the SAE while it is trained, and folded into its
weights when the run ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement, check_sizes
from sae_guard.checkpoints.declarations import Declaration, text_or_none
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
    """What an architecture of SAELens is made of."""

    activation: str
    fields: frozenset[str] = frozenset()
    """What only its configs hold, and the forward pass reads."""
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
    """The SAE of a SAELens 6 folder.

    Raises:
        LoadError: Its architecture or a field of its config is none that is read exactly, the
            scale of its activations is nowhere, or an option contradicts it.
    """
    path, config = config_of(opened)
    metadata = config.get("metadata", {})
    if not isinstance(metadata, dict):
        raise LoadError(f"{path}: metadata is {metadata!r}, expected an object")
    return build(opened, config, metadata, opened.tensors, options, "SAELens 6")


def config_of(opened: Opened) -> tuple[Path, Mapping[str, Any]]:
    """The config and its path."""
    if opened.config_file is None or opened.config is None:
        raise LoadError(f"{opened.path}: a SAELens folder without its config")
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
    """The SAE of a config in the form of SAELens 6; raises `LoadError`."""
    path, _ = config_of(opened)
    if metadata.get("hook_head_index") is not None:
        raise LoadError(
            f"{path}: hook_head_index is {metadata['hook_head_index']!r}: SAEs of a single "
            "attention head are not read yet; allowed: null"
        )
    architecture = _one_of(config, "architecture", tuple(kinds), path)
    kind = kinds[architecture]
    scale = scale_of(_normalization(config, path), opened.path, options, path)
    facts = _facts(config, architecture, kind, scale.factor, path)
    check_agreement(facts, options, path)
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
    sae = assemble(tensors, facts, source, opened.weights)
    sizes = {"d_in": sae.d_in, "d_sae": sae.d_sae, "d_out": sae.d_out}
    required = ("d_in", "d_sae", "d_out") if sae.transcoder else ("d_in", "d_sae")
    check_sizes(dict.fromkeys(required) | {**config}, sizes, path)
    return sae


def _check_optional(tensors: Mapping[str, Tensor], kind: Kind, path: Path) -> None:
    """SAELens calls no tensor as we call these, and has W_skip in its skip transcoders only."""
    left_over = {"b_pre", "latent_scale", "W_skip"} & tensors.keys() - (
        {"W_skip"} if kind.skip else set()
    )
    if left_over or (kind.skip and "W_skip" not in tensors):
        raise LoadError(
            f"{path}: "
            + (f"not understood: {_list(left_over)}" if left_over else "missing: W_skip"),
            "keys",
        )


def version(config: Mapping[str, Any]) -> str | None:
    """The version of SAELens that wrote the config, from 6 on; earlier ones did not say."""
    metadata = config.get("metadata")
    inner = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    found = config.get("sae_lens_version", inner)
    return None if found is None else str(found)


def _facts(
    config: Mapping[str, Any], architecture: str, kind: Kind, scale: float, path: Path
) -> Facts:
    known = _COMMON | kind.fields | saelens_training.fields(architecture)
    unknown = sorted(set(config) - known)
    if unknown:
        raise LoadError(
            f"{path}: {', '.join(f'{n} = {config[n]!r}' for n in unknown)}: not understood for a "
            f"{architecture} SAE; allowed: {_list(known)}",
            "activation",
        )
    _one_of(config, "reshape_activations", ("none", "hook_z"), path, default="none")
    k = config.get("k") if architecture == kind.activation else None
    if k is not None and type(k) is not int:
        raise LoadError(f"{path}: k is {k!r}, expected a whole number", "activation")
    pre_bias = _flag(config, "apply_b_dec_to_input", path, default=not kind.transcoder)
    if pre_bias and kind.transcoder:
        raise LoadError(
            f"{path}: apply_b_dec_to_input is True, allowed in a {architecture}: False, since "
            "b_dec is of the activation that is written",
            "activation",
        )
    said = _normalization(config, path)
    rescaled = _flag(config, "rescale_acts_by_decoder_norm", path, default=False)
    return Facts(
        architecture=kind.activation,
        k=k,
        pre_bias=pre_bias,
        normalize="none" if said in UNFOLDED else said,  # type: ignore[arg-type]
        denormalize=not kind.transcoder,
        rescale_by_decoder_norm="latents" if rescaled else "none",
        scale_in=scale,
        scale_out=scale,
        transcoder=kind.transcoder,
    )


def _normalization(config: Mapping[str, Any], path: Path) -> str:
    return _one_of(
        config,
        "normalize_activations",
        (*get_args(Normalize), *UNFOLDED),
        path,
        default="none",
    )


def _one_of(
    config: Mapping[str, Any], key: str, names: tuple[str, ...], path: Path, default: str = ""
) -> str:
    value = config.get(key) or default
    if value not in names:
        raise LoadError(
            f"{path}: {key} is {config.get(key)!r}, read so far: {_list(names)}", "activation"
        )
    return str(value)


def _flag(config: Mapping[str, Any], key: str, path: Path, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise LoadError(f"{path}: {key} is {value!r}, expected true or false", "activation")
    return value


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


_WEIGHTS = "sae_weights.safetensors"
FOLDERS = (FolderLayout("cfg.json", _WEIGHTS, rank=-1),)


def is_folder(files: CheckpointFiles) -> bool:
    """Recognise the two files of SAELens, of any version."""
    return files.weights.name == _WEIGHTS and files.config is not None


def declare(files: CheckpointFiles) -> Declaration | None:
    """Read the names in a config of any version.

    Raises:
        LoadError: One of them is no text.
    """
    config, path = files.config, files.config_file
    if not is_folder(files) or config is None or path is None:
        return None
    metadata = config.get("metadata")
    values = {**config, **(metadata if isinstance(metadata, dict) else {})}
    hook = text_or_none(values.get("hook_name", values.get("hook_point")), path, "hook_name")
    if hook is not None:  # versions 1 and 2 keep the layer apart
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
    "connection, and checkpoints of a run in progress; a scale that normalize_activations says "
    "and no file holds has to be said",
    folders=FOLDERS,
    declare=declare,
    matches=lambda opened: is_folder(opened) and version(opened.config or {}) is not None,
    read=read,
)


# SAELens treats these as identity at run time, and writes "none" once it has folded them in.
UNFOLDED = ("expected_average_only_in", "covariance_whitening")
_SCALER = "activation_scaler.json"
_WHITENING = "activation_whitening.safetensors"
_STORE = "activations_store_state.safetensors"
_STORED = "estimated_norm_scaling_factor"


class Scale(NamedTuple):
    """What the input is multiplied by, and the file that says so."""

    factor: float
    file: Path | None = None


def scale_of(said: str, folder: Path, options: SaeOptions, config: Path) -> Scale:
    """The scale of an SAE whose config says ``said`` of the normalisation of its training.

    Raises:
        LoadError: It is neither stored nor decided, the options contradict what is stored, or the
            activations are whitened outside of the weights.
    """
    stored = _stored(folder)
    if said not in UNFOLDED:
        if stored is not None:
            raise LoadError(
                f"{stored.file}: a scale of {stored.factor:g}, but {config} has "
                f"normalize_activations {said!r}; allowed: none, or 'expected_average_only_in'",
                "scale",
            )
        return Scale(1.0)
    if said == "covariance_whitening":
        if stored is None and options.scale == "folded":
            return Scale(1.0)
        raise _undecided(said, config, "folded (all that is read of a whitening)")
    if stored is not None:
        if options.scale == "folded":
            raise LoadError(
                f"{stored.file}: a scale of {stored.factor:g} that is not in the weights, the "
                "`sae` options say folded",
                "scale",
                options=("scale",),
            )
        return stored
    if isinstance(options.scale, float):
        return Scale(options.scale)
    if options.scale == "folded":
        return Scale(1.0)
    raise _undecided(
        said,
        config,
        "folded (the weights hold it)",
        "the factor, sqrt(d_in) / the mean norm of the activations",
    )


def _undecided(normalization: str, config: Path, *choices: str) -> LoadError:
    return ambiguous(
        f"{config} is ambiguous: normalize_activations is {normalization!r}, which SAELens "
        "replaces by 'none' once it is folded into the weights, and it is not stored beside them",
        "scale",
        *(("scale", choice) for choice in choices),
    )


def _stored(folder: Path) -> Scale | None:
    """What a checkpoint of a run in progress keeps beside its weights."""
    if not folder.is_dir():
        return None
    scaler, store = folder / _SCALER, folder / _STORE
    found = None
    if scaler.exists():
        held = read_config(scaler)
        _check_no_whitening(held, scaler)
        if held.get("scaling_factor") is not None:
            found = Scale(_factor(held["scaling_factor"], scaler, "scaling_factor"), scaler)
    if found is None and store.exists():
        estimated = _estimated(store)
        found = None if estimated is None else Scale(estimated, store)
    return found


def _check_no_whitening(held: Mapping[str, Any], scaler: Path) -> None:
    """A whitening takes a matrix to and from the SAE, which cannot be applied as a scale."""
    if held.get("has_whitening", scaler.with_name(_WHITENING).exists()):
        raise LoadError(
            f"{scaler}: has_whitening is {held.get('has_whitening')!r}: a checkpoint of a run in "
            "progress, whose weights expect whitened activations; gate what "
            "`save_inference_model` writes",
            "scale",
        )


def _estimated(store: Path) -> float | None:
    """The factor alone: the file also holds the activations of a whole buffer."""
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
