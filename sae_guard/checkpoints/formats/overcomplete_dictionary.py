"""The dictionary of overcomplete: what ``.eval()`` makes of its weights.

https://github.com/KempnerInstitute/overcomplete, `sae/dictionary.py` and
`sae/archetypal_dictionary.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sae_guard.checkpoints.formats.overcomplete_module import Module
from sae_guard.errors import LoadError

_ONE_STEP = 0.05
"""How far one step of an optimiser may have taken rows from length 1."""
_ROUNDING = 1e-4
_EPSILON = 1e-8  # of overcomplete, added to what it divides by


@dataclass(frozen=True)
class Dictionary:
    """The computed dictionary [d_sae, d_in], and what was assumed about it."""

    rows: Tensor
    assumed: tuple[str, ...] = ()


def compute(tensors: Mapping[str, Tensor], module: Module | None, path: Path) -> Dictionary:
    """The rows as `.eval()` fuses them, checked against those that a module holds fused."""
    archetypal = "dictionary.Relax" in tensors
    made = (_archetypal if archetypal else _normalised)(tensors, module, path)
    multiplier = tensors.get("dictionary.multiplier")
    if multiplier is None or multiplier.ndim:
        raise LoadError(f"{path}: no number dictionary.multiplier", "keys")
    rows = made.rows * multiplier.exp()
    assumed = made.assumed
    if multiplier != 0:
        assumed += (f"the dictionary is multiplied by exp(multiplier) = {multiplier.exp():.4g}",)
    fused = module.fused if module is not None else None
    if fused is not None and (
        fused.shape != rows.shape or not torch.allclose(fused.float(), rows, _ROUNDING, 1e-6)
    ):
        raise LoadError(
            f"{path}: the dictionary that .eval() fused differs from what the weights give now "
            "(load_state_dict after .eval() does this); call .train() and .eval(), and save again"
        )
    return Dictionary(rows, assumed)


def _normalised(tensors: Mapping[str, Tensor], module: Module | None, path: Path) -> Dictionary:
    weights = matrix(tensors, "dictionary._weights", path)
    lengths = weights.norm(dim=1, keepdim=True)
    between = f"{float(lengths.min()):.4g} to {float(lengths.max()):.4g}"
    name = module.normalization if module is not None else None
    if module is None:
        if bool(((lengths - 1).abs() > _ONE_STEP).any()):
            raise LoadError(
                f"{path}: dictionary._weights has rows of lengths {between}; a state dict does not "
                "say how overcomplete normalises them (l2, max_l2, l1, max_l1 or identity), and of "
                "its default, l2, they would be near 1; save the whole module",
                "scale",
            )
        name = "l2"
    sums = weights.abs().sum(dim=1, keepdim=True)
    divisors = {
        "l2": lengths + _EPSILON,
        "max_l2": lengths.max(),
        "l1": sums + _EPSILON,
        "max_l1": sums.max(),
        "identity": torch.ones(()),
    }
    if name not in divisors:
        raise LoadError(
            f"{path}: normalization is {name!r}, allowed: {', '.join(divisors)}", "scale"
        )
    by_default = ", overcomplete's default, which a state dict does not say"
    return Dictionary(
        weights / divisors[name],
        (
            f"the rows of the dictionary, of lengths {between}, are normalised by {name}"
            + (by_default if module is None else ", as the module does"),
        ),
    )


def _archetypal(tensors: Mapping[str, Tensor], module: Module | None, path: Path) -> Dictionary:
    """Convex combinations of points, and a deviation of at most the length delta."""
    W, points, deviation = (matrix(tensors, f"dictionary.{n}", path) for n in ("W", "C", "Relax"))
    if W.shape != (len(deviation), len(points)) or points.shape[1] != deviation.shape[1]:
        raise LoadError(
            f"{path}: dictionary.W {list(W.shape)}, C {list(points.shape)} and Relax "
            f"{list(deviation.shape)} do not fit each other",
            "shapes",
        )
    if module is None:
        sums = W.sum(dim=1)
        stochastic = ((sums - 1).abs() < _ROUNDING) | (sums == 0)
        if float(W.min()) < 0 or not bool(stochastic.all()):
            raise LoadError(
                f"{path}: the rows of dictionary.W are no weights that sum to 1: saved after a "
                "step of the optimiser, which overcomplete corrects at run time by a delta that a "
                "state dict does not hold; save it after .eval(), or the whole module",
                "scale",
            )
        return Dictionary(W @ points + deviation)
    if module.delta is None:
        raise LoadError(f"{path}: the dictionary has no number delta", "scale")
    weights = torch.relu(W)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + _EPSILON)
    shrunk = (module.delta / deviation.norm(dim=-1, keepdim=True)).clamp(max=1)
    return Dictionary(weights @ points + deviation * shrunk)


def matrix(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """The tensor of that name, which must have two dimensions; raises `LoadError`."""
    if name not in tensors or tensors[name].ndim != 2 or 0 in tensors[name].shape:
        found = ", ".join(f"{n} {list(tensor.shape)}" for n, tensor in tensors.items())
        raise LoadError(
            f"{path}: no matrix {name}; there is: {found}",
            "shapes" if name in tensors else "keys",
        )
    return tensors[name]
