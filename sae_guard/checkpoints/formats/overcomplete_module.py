"""A pickled module of overcomplete, read as inert objects: its tensors and its settings.

Besides tensors, the forward pass of a `torch.nn.Module` depends on its class, the classes of its
parts, its hooks and a few attributes. All of them are read or refused here; no code is run.
The dictionary is computed from its weights as ``.eval()`` does.

https://github.com/KempnerInstitute/overcomplete, `sae/dictionary.py` and
`sae/archetypal_dictionary.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.format import is_tensor
from sae_guard.checkpoints.safe_pickle.inert import InertObject
from sae_guard.errors import LoadError, allowed

if TYPE_CHECKING:
    from torch import Tensor

CLASSES: Mapping[str, str] = {
    "SAE": "standard",
    "TopKSAE": "topk",
    "RATopKSAE": "topk",
    "JumpSAE": "jumprelu",
    "RAJumpSAE": "jumprelu",
    "BatchTopKSAE": "jumprelu",
}
"""Architecture of each class in evaluation mode."""
_DICTIONARIES = ("DictionaryLayer", "RelaxedArchetypalDictionary")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("MLPEncoder", "TieableEncoder"),
    "encoder.mlp_blocks": ("ModuleList",),
    "encoder.final_block": ("Sequential",),
    "encoder.final_block.0": ("Linear",),
    "encoder.final_block.1": ("Identity",),
    "encoder.final_activation": ("ReLU",),
    "encoder.tied_to": _DICTIONARIES,
    "dictionary": _DICTIONARIES,
}
"""Allowed classes of every part; parts of other names are refused."""
_LIBRARIES = ("torch.nn.", "overcomplete.")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""Attributes for code that torch runs before and after a module."""


@dataclass(frozen=True)
class Module:
    """A module in evaluation mode."""

    name: str
    tensors: Mapping[str, Tensor]
    """Tensors under the names of the state dict."""
    k: int | None
    threshold: float | None
    """Running threshold of a BatchTopKSAE."""
    normalization: str | None
    delta: float | None
    """Largest length of a deviation in an archetypal dictionary."""
    fused: Tensor | None
    """Dictionary that evaluation mode uses; None in training mode."""


def is_module(inert: InertObject) -> bool:
    """Return whether an inert object is an SAE of this library, or has the parts of one."""
    parts = vars(inert).get("_modules")
    from_library = type(inert).__module__.startswith("overcomplete.")
    return from_library or (isinstance(parts, Mapping) and {"encoder", "dictionary"} <= set(parts))


def read_module(inert: InertObject, path: Path) -> Module:
    """Read the tensors and settings of a module.

    Raises:
        LoadError: The class or a part is unknown, the module has hooks, or was never trained.
    """
    name = type(inert).__name__
    if name not in CLASSES or not type(inert).__module__.startswith("overcomplete."):
        raise LoadError(
            f"{path}: a module of the class {type(inert).__module__}.{name}, expected one of "
            "overcomplete.sae; "
            f"{allowed(name, CLASSES)}",
            "keys",
        )
    tensors = dict(_tensors(inert, "", path))
    attributes = vars(inert)
    dictionary = _modules(inert).get("dictionary")
    dictionary_attributes = vars(dictionary) if isinstance(dictionary, InertObject) else {}
    normalization, delta, fused = (
        dictionary_attributes.get(key) for key in ("normalization", "delta", "_fused_dictionary")
    )
    in_evaluation = dictionary_attributes.get("training") is False
    return Module(
        name,
        tensors,
        k=_integer(attributes.get("top_k"), path) if CLASSES[name] == "topk" else None,
        threshold=(
            _running_threshold(attributes.get("running_threshold"), path)
            if "Batch" in name
            else None
        ),
        normalization=_normalization_name(normalization),
        delta=float(delta) if isinstance(delta, int | float) else None,
        fused=fused if is_tensor(fused) and in_evaluation else None,
    )


def _tensors(inert: InertObject, prefix: str, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the entries of the state dict; raises `LoadError` for hooks and unknown parts."""
    for hooks in _HOOKS:
        if vars(inert).get(hooks) not in (None, {}):
            part = prefix.removesuffix(".") or "the module"
            raise LoadError(
                f"{path}: {part} has {hooks}, whose code is not run; remove the hooks and save "
                "again"
            )
    for kind in ("_parameters", "_buffers"):
        named_tensors = vars(inert).get(kind)
        for name, tensor in named_tensors.items() if isinstance(named_tensors, Mapping) else ():
            if is_tensor(tensor):
                yield f"{prefix}{name}", tensor
    for name, inner in _modules(inert).items():
        if inner is None:
            continue
        part_name = f"{prefix}{name}"
        part_class = type(inner)
        class_names = _PARTS.get(part_name, ())
        if not isinstance(inner, InertObject) or not (
            part_class.__name__ in class_names and part_class.__module__.startswith(_LIBRARIES)
        ):
            raise LoadError(
                f"{path}: {part_name} is a {part_class.__module__}.{part_class.__name__}, "
                f"allowed: {' or '.join(class_names) or 'no such part'}",
                "keys",
            )
        yield from _tensors(inner, f"{part_name}.", path)


def _modules(inert: InertObject) -> Mapping[str, Any]:
    parts = vars(inert).get("_modules")
    return parts if isinstance(parts, Mapping) else {}


def _integer(value: Any, path: Path) -> int:
    if type(value) is not int:
        raise LoadError(f"{path}: top_k is {value!r}, expected a whole number", "activation")
    return value


def _running_threshold(value: Any, path: Path) -> float:
    if value is None:
        raise LoadError(
            f"{path}: running_threshold is None, expected a number: this BatchTopKSAE was never "
            "trained, and its latents depend on the rest of their batch",
            "batch_mates",
        )
    if is_tensor(value) and value.numel() == 1:
        value = float(value)
    if type(value) is not float or value != value:  # NaN is not equal to itself
        raise LoadError(f"{path}: running_threshold is {value!r}, expected a number", "threshold")
    return value


def _normalization_name(value: Any) -> str | None:
    """Return ``l2`` for the function ``normalize_l2`` of the library, which is read as a class."""
    if isinstance(value, type) and value.__module__ == "overcomplete.sae.dictionary":
        return value.__name__.removeprefix("normalize_")
    return None if value is None else str(value)


_ONE_STEP = 0.05
"""Largest distance from 1 of a row's length: one step of an optimiser after normalisation."""
_ROUNDING = 1e-4
_EPSILON = 1e-8  # overcomplete adds it to divisors


@dataclass(frozen=True)
class Dictionary:
    """The computed dictionary [d_sae, d_in], and the assumptions behind it."""

    rows: Tensor
    assumed: tuple[str, ...] = ()


def compute(tensors: Mapping[str, Tensor], module: Module | None, path: Path) -> Dictionary:
    """Compute the dictionary as `.eval()` does, and check it against the fused one of a module.

    Raises:
        LoadError: A tensor is missing, the normalisation is unknown, or the module's fused
            dictionary differs.
    """
    archetypal = "dictionary.Relax" in tensors
    unscaled = (_archetypal if archetypal else _normalised)(tensors, module, path)
    multiplier = tensors.get("dictionary.multiplier")
    if multiplier is None or multiplier.ndim:
        raise LoadError(f"{path}: expected a scalar dictionary.multiplier", "keys")
    rows = unscaled.rows * multiplier.exp()
    assumed = unscaled.assumed
    if multiplier != 0:
        assumed += (f"the dictionary is multiplied by exp(multiplier) = {multiplier.exp():.4g}",)
    fused = module.fused if module is not None else None
    if fused is not None and (
        fused.shape != rows.shape or not fused.float().allclose(rows, _ROUNDING, 1e-6)
    ):
        raise LoadError(
            f"{path}: the fused dictionary differs from the weights (load_state_dict after .eval() "
            "causes this); call .train() and .eval(), and save again"
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
                f"{path}: dictionary._weights has rows of lengths {between}, allowed in a state "
                "dict: near 1, as by the default normalisation l2 (it does not state another one: "
                "max_l2, l1, max_l1 or identity); save the whole module",
                "scale",
            )
        name = "l2"
    sums = weights.abs().sum(dim=1, keepdim=True)
    divisors = {
        "l2": lengths + _EPSILON,
        "max_l2": lengths.max(),
        "l1": sums + _EPSILON,
        "max_l1": sums.max(),
        "identity": sums.new_ones(()),
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
    """Compute W · C + Relax: convex combinations of points, and deviations of up to delta."""
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
                f"{path}: the rows of dictionary.W are not weights that sum to 1: the file was "
                "saved after a step of the optimiser, and a state dict lacks the delta of the "
                "correction; save it after .eval(), or save the whole module",
                "scale",
            )
        return Dictionary(W @ points + deviation)
    if module.delta is None:
        raise LoadError(f"{path}: the dictionary has no delta, expected a number", "scale")
    weights = W.relu()
    weights = weights / (weights.sum(dim=-1, keepdim=True) + _EPSILON)
    shrunk = (module.delta / deviation.norm(dim=-1, keepdim=True)).clamp(max=1)
    return Dictionary(weights @ points + deviation * shrunk)


def matrix(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """Return the tensor ``name``, which must be a non-empty matrix; raises `LoadError`."""
    if name not in tensors or tensors[name].ndim != 2 or 0 in tensors[name].shape:
        shapes = ", ".join(f"{n} {list(tensor.shape)}" for n, tensor in tensors.items())
        raise LoadError(
            f"{path}: no matrix {name}; the file has: {shapes}",
            "shapes" if name in tensors else "keys",
        )
    return tensors[name]
