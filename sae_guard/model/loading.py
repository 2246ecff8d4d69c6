"""Name or folder → `LanguageModel`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sae_guard.errors import InfrastructureError, SetupError, allowed
from sae_guard.model.language_model import LanguageModel, Processing

DeviceMap = str | Mapping[str, int | str]
"""A strategy of accelerate's (auto, balanced, …), a device, or module → device."""

_PLACES = (
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
    """Load a Hugging Face model by name, or from a local folder, into a bridge.

    Args:
        name: Hugging Face name, or a folder with ``config.json`` and the weights.
        dtype: What the model computes in; metrics are float32 or better regardless.
        processing: ``raw`` weights, or ``hooked``: layer norms folded and weights centred as
            HookedTransformer does by default, which SAEs trained on it need.
        revision: Of the Hugging Face repository.
        device: Where the model runs (default: the CPU); not beside a ``device_map``.
        device_map: Over which devices it is spread, as in transformers' ``from_pretrained``.

    Raises:
        SetupError: There is no such model, or it cannot be spread so.
        InfrastructureError: The hub cannot be reached, or the model does not fit.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if isinstance(name, Path) and not (name / "config.json").is_file():
        raise SetupError(f"{name} is no model folder (no config.json); {_folders_beside(name)}")
    if device_map is not None and device is not None:
        raise SetupError(f"device {device} and device_map {device_map!r} exclude each other")
    if device_map is None:
        placed: dict[str, Any] = {"device": device or "cpu"}
    else:
        placed = {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    with _quiet_transformers(), _placing(str(name), device_map):
        try:
            bridge = TransformerBridge.boot_transformers(
                str(name), dtype=getattr(torch, dtype), revision=revision, **placed
            )
        except OSError as error:
            raise _not_loaded(str(name), error) from error
        if processing == "hooked":
            bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.eval()
    if str(bridge.cfg.device) in ("meta", "disk"):  # embeddings on disk, that run on the CPU
        bridge.cfg.device = "cpu"
    if isinstance(device_map, Mapping):
        _check_names(str(name), bridge, device_map)
    return LanguageModel(bridge, str(name), revision, processing)


@contextmanager
def _placing(name: str, device_map: DeviceMap | None) -> Iterator[None]:
    """Errors that say what cannot be placed as asked for."""
    if device_map is None:
        yield
        return
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(
            f"model {name!r} does not fit by device_map {device_map!r}: {error}"
        ) from error
    # What transformers, accelerate, TransformerLens and torch raise for what they cannot do.
    except (ValueError, RuntimeError, AssertionError, ImportError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise SetupError(
            f"model {name!r} cannot be placed by device_map {device_map!r}: {reason}; "
            f"allowed: {_PLACES}"
        ) from error


def _check_names(name: str, bridge: Any, device_map: Mapping[str, int | str]) -> None:
    """Raise `SetupError` for a module that is not there, which transformers ignores."""
    model = bridge.original_model
    known = [*model.named_modules(), *model.named_parameters()]
    # The bridge has put its own modules between those that it found.
    names = {found.replace("_original_component.", "") for found, _ in known}
    for module in device_map:
        if module not in names:
            own = [found for found in names if found and "hook_" not in found]
            raise SetupError(
                f"model {name!r} has no module {module!r}, which device_map names; "
                f"{allowed(module, own)}"
            )


def _not_loaded(name: str, error: OSError) -> SetupError | InfrastructureError:
    """An error that says whether the model does not exist or could not be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    reason = str(error).splitlines()[0]
    hint = allowed(name, OFFICIAL_MODEL_NAMES)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
            return InfrastructureError(
                f"model {name!r} is not in the local cache and the hub cannot be reached: "
                f"{reason} If the name is wrong: {hint}"
            )
        chain = chain.__cause__ or chain.__context__
    return SetupError(f"no model {name!r}: {reason} {hint}")


def _folders_beside(path: Path) -> str:
    parent = path.parent
    found = [p.parent.name for p in parent.glob("*/config.json")] if parent.is_dir() else []
    return allowed(path.name, found) if found else f"no model folder lies in {parent}"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar of weights in a test report."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
