"""SAELens 6 folders: ``cfg.json`` beside ``sae_weights.safetensors``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sae_guard.checkpoints.assemble import Facts, assemble, check_agreement
from sae_guard.checkpoints.family import Family, Opened
from sae_guard.checkpoints.locate import read_config
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError
from sae_guard.sae import SAE

ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated")
_NORMALIZE = ("none", "constant_norm_rescale", "layer_norm")
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
        LoadError: The folder is of an older version or unfinished, its architecture or a field of
            its config is none that is read exactly, or an option contradicts it.
    """
    path, config = opened.config_file, opened.config
    if path is None or config is None:
        raise LoadError(f"{opened.path}: a SAELens folder without its config")
    metadata = _metadata(config, path)
    _check_finished(opened.path)
    facts = _facts(config, options, path)
    source = opened.source("SAELens 6", **{name: metadata.get(name) for name in _DECLARED})
    sae = assemble(opened.tensors, facts, source, opened.weights)
    for name, found in (("d_in", sae.d_in), ("d_sae", sae.d_sae)):
        if config.get(name) != found:
            raise LoadError(
                f"{path}: {name} is {config.get(name)!r}, but {opened.weights.name} has "
                f"{name} {found}"
            )
    return sae


def _metadata(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    metadata = config.get("metadata", {})
    if not isinstance(metadata, dict):
        raise LoadError(f"{path}: metadata is {metadata!r}, expected an object")
    metadata = {**metadata, **{n: config[n] for n in ("sae_lens_version",) if n in config}}
    if "sae_lens_version" not in metadata:
        raise LoadError(
            f"{path}: sae_lens_version is missing, so this is a checkpoint of SAELens before 6; "
            "read so far: SAELens 6 (load it there and save it with `save_inference_model`)"
        )
    if metadata.get("hook_head_index") is not None:
        raise LoadError(
            f"{path}: hook_head_index is {metadata['hook_head_index']!r}: SAEs of a single "
            "attention head are not read yet; allowed: null"
        )
    return metadata


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
    facts = Facts(
        architecture=architecture,
        k=k,
        pre_bias=_flag(config, "apply_b_dec_to_input", path, default=True),
        normalize=_normalize(config, options, path),  # type: ignore[arg-type]
        rescale_by_decoder_norm=_flag(config, "rescale_acts_by_decoder_norm", path, default=False),
    )
    check_agreement(facts, options, path)
    return facts


def _normalize(config: Mapping[str, Any], options: SaeOptions, path: Path) -> str:
    said = _one_of(config, "normalize_activations", (*_NORMALIZE, *_UNFOLDED), path, default="none")
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


FAMILY = Family(
    "SAELens 6",
    recognised_by="a folder with `cfg.json` and `sae_weights.safetensors`",
    holds="standard, topk, abstopk, jumprelu and gated SAEs",
    matches=lambda opened: (
        opened.weights.name == "sae_weights.safetensors" and opened.config_file is not None
    ),
    read=read,
)
