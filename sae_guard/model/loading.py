"""Loads a Hugging Face model into a TransformerLens bridge, on one device or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sae_guard.errors import InfrastructureError, SetupError, allowed
from sae_guard.model.language_model import LanguageModel, Processing

DeviceMap = str | Mapping[str, int | str]
"""A strategy of accelerate (auto, balanced, …), a device, or a mapping of module → device."""

_ALLOWED_DEVICE_MAPS = (
    "auto, balanced, balanced_low_0, sequential, a device, or a mapping of module names to GPU "
    "numbers, or to cpu and disk (which TransformerLens 3.9 lacks)"
)


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    processing: Processing = "raw",
    revision: str | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
) -> LanguageModel:
    """Load a Hugging Face model, by name or from a local folder, into a bridge.

    Args:
        name: Hugging Face name, or a `Path` of a folder with ``config.json`` and the weights.
        dtype: Name of the torch dtype of the weights and activations. Metrics are computed in
            float32 or better regardless.
        processing: ``raw`` leaves the weights as they are. ``hooked`` folds layer norms and centres
            weights like HookedTransformer by default; SAEs trained on such a model need it.
        revision: Commit, branch or tag of the Hugging Face repository.
        device: Device of the whole model (default: the CPU); excludes ``device_map``.
        device_map: Devices that the modules are spread over, as in transformers'
            ``from_pretrained``.

    Raises:
        SetupError: There is no such model, or the device map is not possible.
        InfrastructureError: The hub cannot be reached, or the model does not fit into memory.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if isinstance(name, Path) and not (name / "config.json").is_file():
        raise SetupError(
            f"{name} is not a model folder: it has no config.json; {_neighbours(name)}"
        )
    if device_map is not None and device is not None:
        raise SetupError(
            f"device {device} and device_map {device_map!r} are both set; allowed: one of them"
        )
    if device_map is None:
        placement: dict[str, Any] = {"device": device or "cpu"}
    else:
        placement = {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    with _no_progress_bar(), _device_map_errors(str(name), device_map):
        try:
            bridge = TransformerBridge.boot_transformers(
                str(name), dtype=getattr(torch, dtype), revision=revision, **placement
            )
        except OSError as error:
            raise _load_error(str(name), error) from error
        if processing == "hooked":
            bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.eval()
    # TransformerLens takes the device from the embeddings. Those on disk run on the CPU.
    if str(bridge.cfg.device) in ("meta", "disk"):
        bridge.cfg.device = "cpu"
    if isinstance(device_map, Mapping):
        _check_modules(str(name), bridge, device_map)
    return LanguageModel(bridge, str(name), revision, processing)


@contextmanager
def _device_map_errors(name: str, device_map: DeviceMap | None) -> Iterator[None]:
    """Turn errors of loading into errors that name the device map, if there is one."""
    if device_map is None:
        yield
        return
    try:
        yield
    # Before RuntimeError, from which it derives.
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(
            f"model {name!r} does not fit into memory with device_map {device_map!r}: use more "
            f"devices or a smaller dtype ({error})"
        ) from error
    # transformers, accelerate, TransformerLens and torch raise these for device maps that they
    # do not support.
    except (ValueError, RuntimeError, AssertionError, ImportError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise SetupError(
            f"model {name!r} cannot be loaded with device_map {device_map!r}: {reason}; "
            f"allowed: {_ALLOWED_DEVICE_MAPS}"
        ) from error


def _check_modules(name: str, bridge: Any, device_map: Mapping[str, int | str]) -> None:
    """Raise `SetupError` for a module that the model lacks, since transformers ignores it."""
    model = bridge.original_model
    modules = [*model.named_modules(), *model.named_parameters()]
    # The bridge wraps the model's modules in its own, which adds this part to their names.
    names = {module.replace("_original_component.", "") for module, _ in modules}
    for module in device_map:
        if module not in names:
            own = [other for other in names if other and "hook_" not in other]
            raise SetupError(
                f"model {name!r} has no module {module!r}, which device_map names; "
                f"{allowed(module, own)}"
            )


def _load_error(name: str, error: OSError) -> SetupError | InfrastructureError:
    """Return an error that says whether the model does not exist or could not be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    reason = str(error).splitlines()[0]
    hint = allowed(name, OFFICIAL_MODEL_NAMES)
    # transformers wraps the error of the hub client, which alone tells the two cases apart.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
            return InfrastructureError(
                f"model {name!r} is not in the local cache and the Hugging Face hub cannot be "
                f"reached: connect to it, or correct the name ({reason}) {hint}"
            )
        cause = cause.__cause__ or cause.__context__
    return SetupError(f"no model {name!r}: {reason} {hint}")


def _neighbours(path: Path) -> str:
    """Return the end of a message: the model folders next to a path that is not one."""
    parent = path.parent
    names = [p.parent.name for p in parent.glob("*/config.json")] if parent.is_dir() else []
    return allowed(path.name, names) if names else f"there is no model folder in {parent}"


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Switch off transformers' progress bar of weights, which would end up in test reports."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
