"""SAELens 6 folders: ``cfg.json`` with a version, beside ``sae_weights.safetensors``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import read_config
from sae_guard.checkpoints.options import Normalize, SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated")
# SAELens treats these as identity at run time, and writes "none" once it has folded them in.
_UNFOLDED = ("expected_average_only_in", "covariance_whitening")
_COMMON = {
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input",
    "normalize_activations", "reshape_activations", "metadata", "sae_lens_version",
}  # fmt: skip
_TOPK = {"k", "rescale_acts_by_decoder_norm"}
_OWN: Mapping[str, set[str]] = {"topk": _TOPK, "abstopk": _TOPK}
_DECLARED = (
    "model_name", "hook_name", "prepend_bos", "context_size", "exclude_special_tokens",
    "seqpos_slice", "model_from_pretrained_kwargs", "sae_lens_version",
)  # fmt: skip
_SCALER = "activation_scaler.json"


def read(opened: Opened, options: SaeOptions) -> SAE:
    """The SAE of a SAELens 6 folder.

    Raises:
        LoadError: The folder is unfinished, its architecture or a field of its config is none that
            is read exactly, or an option contradicts it.
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
    family: str,
) -> SAE:
    """The SAE of a config in the form of SAELens 6; raises `LoadError`."""
    path, _ = config_of(opened)
    if metadata.get("hook_head_index") is not None:
        raise LoadError(
            f"{path}: hook_head_index is {metadata['hook_head_index']!r}: SAEs of a single "
            "attention head are not read yet; allowed: null"
        )
    _check_finished(opened.path)
    facts = _facts(config, options, path)
    source = opened.source(family, **{name: metadata.get(name) for name in _DECLARED})
    sae = assemble(tensors, facts, source, opened.weights)
    for name, found in (("d_in", sae.d_in), ("d_sae", sae.d_sae)):
        if config.get(name) != found:
            raise LoadError(
                f"{path}: {name} is {config.get(name)!r}, but {opened.weights.name} has "
                f"{name} {found}"
            )
    return sae


def version(config: Mapping[str, Any]) -> str | None:
    """The version of SAELens that wrote the config, from 6 on; earlier ones did not say."""
    metadata = config.get("metadata")
    inner = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    found = config.get("sae_lens_version", inner)
    return None if found is None else str(found)


def _check_finished(folder: Path) -> None:
    """A checkpoint of a run in progress keeps the scale of its activations in another file."""
    scaler = folder / _SCALER
    if not scaler.exists():
        return
    held = read_config(scaler)
    if held.get("scaling_factor") is not None or held.get("has_whitening"):
        raise LoadError(
            f"{scaler}: scaling_factor is {held.get('scaling_factor')!r}: a checkpoint of a run in "
            "progress, whose weights expect scaled activations; gate what `save_inference_model` "
            "writes"
        )


def _facts(config: Mapping[str, Any], options: SaeOptions, path: Path) -> Facts:
    architecture = _one_of(config, "architecture", ARCHITECTURES, path)
    unknown = sorted(set(config) - _COMMON - _OWN.get(architecture, set()))
    if unknown:
        raise LoadError(
            f"{path}: {', '.join(f'{n} = {config[n]!r}' for n in unknown)}: not understood for a "
            f"{architecture} SAE; allowed: {_list(_COMMON | _OWN.get(architecture, set()))}"
        )
    _one_of(config, "reshape_activations", ("none", "hook_z"), path, default="none")
    k = config.get("k")
    if k is not None and type(k) is not int:
        raise LoadError(f"{path}: k is {k!r}, expected a whole number")
    rescaled = _flag(config, "rescale_acts_by_decoder_norm", path, default=False)
    facts = Facts(
        architecture=architecture,
        k=k,
        pre_bias=_flag(config, "apply_b_dec_to_input", path, default=True),
        normalize=_normalize(config, options, path),  # type: ignore[arg-type]
        rescale_by_decoder_norm="latents" if rescaled else "none",
    )
    check_agreement(facts, options, path)
    return facts


def _normalize(config: Mapping[str, Any], options: SaeOptions, path: Path) -> str:
    said = _one_of(
        config, "normalize_activations", (*get_args(Normalize), *_UNFOLDED), path, default="none"
    )
    if said in _UNFOLDED:
        if options.normalize is None:
            raise LoadError(
                f"{path}: normalize_activations is {said!r}: SAELens writes 'none' once the scale "
                "is folded into the weights, so here it may be missing; say "
                "`sae: {normalize: none}` in the spec if it is folded"
            )
        return options.normalize
    return said


def _one_of(
    config: Mapping[str, Any], key: str, names: tuple[str, ...], path: Path, default: str = ""
) -> str:
    value = config.get(key) or default
    if value not in names:
        raise LoadError(f"{path}: {key} is {config.get(key)!r}, read so far: {_list(names)}")
    return str(value)


def _flag(config: Mapping[str, Any], key: str, path: Path, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise LoadError(f"{path}: {key} is {value!r}, expected true or false")
    return value


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def is_folder(opened: Opened) -> bool:
    """Whether these are the two files of SAELens."""
    return opened.weights.name == "sae_weights.safetensors" and opened.config is not None


FAMILY = Family(
    "SAELens 6",
    recognised_by="a folder with `cfg.json` (with a `sae_lens_version`) and "
    "`sae_weights.safetensors`",
    holds="standard, topk, abstopk, jumprelu and gated SAEs",
    matches=lambda opened: is_folder(opened) and version(opened.config or {}) is not None,
    read=read,
)
