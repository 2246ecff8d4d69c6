"""SAELens checkpoints of a run in progress: training fields in ``cfg.json``, BatchTopK SAEs.

https://github.com/jbloomAus/SAELens, `saes/*.py`. The training classes compute the same as the
inference classes, except BatchTopK: it is saved for inference as a JumpReLU SAE with one threshold
for all latents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.files import read_config
from sae_guard.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")
ASSUMED = (
    "a latent is active above topk_threshold, as `save_inference_model` has it; SAELens itself "
    "picks the largest of a whole batch while it trains"
)
_TOPK = {"use_sparse_activations", "aux_loss_coefficient"}
_BATCHTOPK = _TOPK | {"topk_threshold_lr"}
_SPARSITY = {"l1_coefficient", "l1_warm_up_steps"}
_OWN: Mapping[str, set[str]] = {
    "standard": _SPARSITY | {"lp_norm"},
    "gated": _SPARSITY,
    "jumprelu": {
        "jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode",
        "jumprelu_tanh_scale", "jumprelu_ste_to_input", "l0_coefficient", "l0_warm_up_steps",
        "pre_act_loss_coefficient", "target_l0",
    },
    "topk": _TOPK,
    "abstopk": _TOPK,
    "batchtopk": _BATCHTOPK,
    "matryoshka_batchtopk": _BATCHTOPK | {"matryoshka_widths", "use_matryoshka_aux_loss"},
}  # fmt: skip

_RESCALES_SINCE, _FOLDS_THRESHOLD_SINCE = (6, 14, 0), (6, 54, 9)


def fields(architecture: str) -> set[str]:
    """Return the fields of a training config that the forward pass does not read."""
    own = _OWN.get(architecture)
    return set() if own is None else own | {"decoder_init_norm"}


def with_threshold(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Replace ``topk_threshold`` [] of a BatchTopK SAE by ``threshold`` [d_sae].

    Raises:
        LoadError: ``topk_threshold`` is missing or no scalar.
    """
    tensors = dict(tensors)
    if "topk_threshold" not in tensors or "threshold" in tensors:
        raise LoadError(
            f"{path}: expected topk_threshold and no threshold in a BatchTopK SAE; the file has: "
            f"{', '.join(tensors)}",
            "keys",
        )
    scalar = tensors.pop("topk_threshold")
    if scalar.ndim:
        raise LoadError(
            f"{path}: topk_threshold has shape {list(scalar.shape)}, expected []", "shapes"
        )
    if "b_enc" in tensors:
        tensors["threshold"] = scalar.expand(tensors["b_enc"].shape)
    return tensors


def training(folder: Path, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a JumpReLU SAE's training, which `warning` evaluates."""
    if architecture != "jumprelu":
        return {}
    details = metadata.get("training_architecture_details")
    runner = folder / "runner_cfg.json"
    run = read_config(runner).get("sae") if runner.is_file() else None
    settings: dict[str, Any] = {}
    for source in (run, details):
        settings |= source if isinstance(source, dict) else {}
    trained_as = metadata.get("training_architecture") or settings.get("architecture")
    normalized = settings.get("normalize_activations")
    return {
        "training_architecture": trained_as if isinstance(trained_as, str) else None,
        "training_rescaled_by_decoder_norm": settings.get("rescale_acts_by_decoder_norm") is True
        or None,
        "training_normalize_activations": normalized if isinstance(normalized, str) else None,
    }


def warning(declared: Mapping[str, Any]) -> str | None:
    """Return a warning for a BatchTopK SAE saved with the bug of SAELens issue 763, else None.

    Versions 6.14.0 to 6.54.8 folded the scale of the activations into W_dec, but not into the
    threshold, which is in units of its rows. The scale is not stored, so it cannot be repaired.
    """
    normalized = declared.get("training_normalize_activations")
    version = _version(declared.get("sae_lens_version"))
    if (
        declared.get("training_architecture") not in BATCHTOPK
        or not declared.get("training_rescaled_by_decoder_norm")
        or normalized not in (None, "expected_average_only_in")
        or not _RESCALES_SINCE <= version < _FOLDS_THRESHOLD_SINCE
    ):
        return None
    condition = "" if normalized else ", if the training normalised its activations"
    return (
        f"the threshold is off by the scale of the activations{condition}: SAELens "
        f"{declared.get('sae_lens_version')} did not fold it into the thresholds of BatchTopK SAEs "
        "(its issue 763); L0 differs from that of the training"
    )


def _version(text: Any) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", str(text))
    return tuple(int(part) for part in match.groups()) if match else ()
