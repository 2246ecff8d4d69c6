"""What a checkpoint says of its training → whether it is what the spec measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sae_guard.checkpoints.declare import Declaration
from sae_guard.errors import LoadError
from sae_guard.gate.planning import mismatch
from sae_guard.specs import Spec


def check_metadata(spec: Spec, said: Mapping[str, Any], checkpoint: str) -> None:
    """Raise `LoadError` where what a loaded checkpoint says of its training contradicts the spec.

    Args:
        spec: What it is measured by.
        said: The checkpoint's own words, under the names of `SaeSource.declared`.
        checkpoint: What to call it.
    """
    for key in ("model_name", "hook_name", "hook_name_out"):
        if not isinstance(said.get(key), str | None):
            raise LoadError(f"{checkpoint}: {key} is {said[key]!r}, expected text", "metadata")
    # Silence on what it replaces is no contradiction: its weights say whether it is a transcoder.
    replaced = said.get("hook_name_out") or spec.hook_out
    place = Declaration(said.get("model_name"), said.get("hook_name"), replaced)
    for wrong in (mismatch(spec, place), *_other_policies(spec, said)):
        if wrong is not None:
            raise LoadError(f"{checkpoint}: {wrong}", "metadata")


def _other_policies(spec: Spec, said: Mapping[str, Any]) -> Iterator[str]:
    """Where the SAE was trained on other tokens, or in another space, than it is measured in."""
    bos = said.get("prepend_bos")
    if bos is not None and bos != spec.data.prepend_bos:
        yield (
            f"it was trained with prepend_bos {str(bos).lower()}, the spec has `data: "
            f"{{prepend_bos: {str(spec.data.prepend_bos).lower()}}}`"
        )
    excluded = said.get("exclude_special_tokens")
    if excluded and spec.data.special_tokens == "include":
        yield (
            f"it was trained with exclude_special_tokens {excluded!r}, the spec has `data: "
            "{special_tokens: include}`"
        )
    arguments = said.get("model_from_pretrained_kwargs")
    centred = arguments.get("center_writing_weights") if isinstance(arguments, Mapping) else None
    processing = None if centred is None else "hooked" if centred else "raw"
    if processing not in (None, spec.model.processing):
        yield (
            f"it was trained with center_writing_weights {str(centred).lower()}, which is `model: "
            f"{{processing: {processing}}}`, the spec has {spec.model.processing}"
        )
