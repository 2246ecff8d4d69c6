"""Name or folder → `LanguageModel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sae_guard.errors import InfrastructureError, SetupError, allowed
from sae_guard.model.language_model import LanguageModel, Processing


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    processing: Processing = "raw",
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> LanguageModel:
    """Load a Hugging Face model by name, or from a local folder, into a bridge.

    Args:
        name: Hugging Face name, or a folder with ``config.json`` and the weights.
        dtype: What the model computes in; metrics are float32 or better regardless.
        processing: ``raw`` weights, or ``hooked``: layer norms folded and weights centred as
            HookedTransformer does by default, which SAEs trained on it need.
        revision: Of the Hugging Face repository.
        device: Where the model runs.

    Raises:
        SetupError: There is no such model.
        InfrastructureError: The hub cannot be reached.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if isinstance(name, Path) and not (name / "config.json").is_file():
        raise SetupError(f"{name} is no model folder (no config.json); {_folders_beside(name)}")
    with _quiet_transformers():
        try:
            bridge = TransformerBridge.boot_transformers(
                str(name), dtype=getattr(torch, dtype), revision=revision, device=device
            )
        except OSError as error:
            raise _not_loaded(str(name), error) from error
        if processing == "hooked":
            bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.eval()
    return LanguageModel(bridge, str(name), revision, processing)


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
