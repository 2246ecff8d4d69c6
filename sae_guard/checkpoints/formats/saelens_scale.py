"""The scale of the activations in SAELens: folded into the weights, in a file beside them, or lost.

https://github.com/jbloomAus/SAELens, `training/activation_scaler.py` since 6 and
`training/activations_store.py` before it. The scale of ``expected_average_only_in`` is applied
outside of the SAE while it is trained, and folded into its weights when the run ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from sae_guard.checkpoints.locate import read_config
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError

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
        raise _undecided(
            said, config, "\n  sae.scale (--sae-scale): folded (all that is read of a whitening)"
        )
    if stored is not None:
        if options.scale == "folded":
            raise LoadError(
                f"{stored.file}: a scale of {stored.factor:g} that is not in the weights, the "
                "`sae` options say folded",
                "scale",
            )
        return stored
    if isinstance(options.scale, float):
        return Scale(options.scale)
    if options.scale == "folded":
        return Scale(1.0)
    raise _undecided(
        said,
        config,
        "\n  sae.scale (--sae-scale): folded (the weights hold it)"
        "\n  sae.scale (--sae-scale): the factor, sqrt(d_in) / the mean norm of the activations",
    )


def _undecided(said: str, config: Path, candidates: str) -> LoadError:
    return LoadError(
        f"{config} is ambiguous: normalize_activations is {said!r}, which SAELens replaces by "
        f"'none' once it is folded into the weights, and it is not stored beside them; decide in "
        f"the spec:{candidates}",
        "scale",
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
