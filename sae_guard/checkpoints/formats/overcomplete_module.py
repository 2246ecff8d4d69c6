"""A pickled module of overcomplete, read as records: its tensors, and what it computes with.

What decides the forward pass of a `torch.nn.Module` and is no tensor are its class, the classes of
its parts, its hooks and a few attributes. All of them are read or refused here; nothing is run.
The dictionary is what ``.eval()`` makes of its weights.

https://github.com/KempnerInstitute/overcomplete, `sae/dictionary.py` and
`sae/archetypal_dictionary.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_guard.checkpoints.format import is_tensor
from sae_guard.checkpoints.safe_pickle.inert import Record
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
"""The classes that each part may have; parts of other names are refused."""
_LIBRARIES = ("torch.nn.", "overcomplete.")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""What torch runs around a module's own code."""


@dataclass(frozen=True)
class Module:
    """A module in evaluation mode."""

    name: str
    tensors: Mapping[str, Tensor]
    """As its state dict would hold them."""
    k: int | None
    threshold: float | None
    """Of a BatchTopKSAE."""
    normalization: str | None
    delta: float | None
    fused: Tensor | None
    """The dictionary that evaluation mode uses."""


def is_module(record: Record) -> bool:
    """Whether it is an SAE of this library or of a class made from it, by its parts."""
    parts = vars(record).get("_modules")
    from_library = type(record).__module__.startswith("overcomplete.")
    return from_library or (isinstance(parts, Mapping) and {"encoder", "dictionary"} <= set(parts))


def read_module(record: Record, path: Path) -> Module:
    """What the module computes with.

    Raises:
        LoadError: Its class or a part of it is not known, it has hooks, or it was never trained.
    """
    name = type(record).__name__
    if name not in CLASSES or not type(record).__module__.startswith("overcomplete."):
        raise LoadError(
            f"{path}: a module of the class {type(record).__module__}.{name}; "
            f"{allowed(name, CLASSES)}",
            "keys",
        )
    tensors = dict(_tensors(record, "", path))
    said = vars(record)
    dictionary = _modules(record).get("dictionary")
    facts = vars(dictionary) if isinstance(dictionary, Record) else {}
    normalization, delta, fused = (
        facts.get(key) for key in ("normalization", "delta", "_fused_dictionary")
    )
    return Module(
        name,
        tensors,
        k=_whole(said.get("top_k"), path) if CLASSES[name] == "topk" else None,
        threshold=_running(said.get("running_threshold"), path) if "Batch" in name else None,
        normalization=_function(normalization),
        delta=float(delta) if isinstance(delta, int | float) else None,
        fused=fused if is_tensor(fused) and facts.get("training") is False else None,
    )


def _tensors(record: Record, prefix: str, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The entries of the state dict."""
    for hooks in _HOOKS:
        if vars(record).get(hooks) not in (None, {}):
            part = prefix.removesuffix(".") or "the module"
            raise LoadError(f"{path}: {part} has {hooks}, code that is not run")
    for kind in ("_parameters", "_buffers"):
        held = vars(record).get(kind)
        for name, tensor in held.items() if isinstance(held, Mapping) else ():
            if is_tensor(tensor):
                yield f"{prefix}{name}", tensor
    for name, inner in _modules(record).items():
        if inner is None:
            continue
        whole = f"{prefix}{name}"
        part_class = type(inner)
        fitting = _PARTS.get(whole, ())
        if not isinstance(inner, Record) or not (
            part_class.__name__ in fitting and part_class.__module__.startswith(_LIBRARIES)
        ):
            raise LoadError(
                f"{path}: {whole} is a {part_class.__module__}.{part_class.__name__}, allowed: "
                f"{' or '.join(fitting) or 'no such part'}",
                "keys",
            )
        yield from _tensors(inner, f"{whole}.", path)


def _modules(record: Record) -> Mapping[str, Any]:
    parts = vars(record).get("_modules")
    return parts if isinstance(parts, Mapping) else {}


def _whole(value: Any, path: Path) -> int:
    if type(value) is not int:
        raise LoadError(f"{path}: top_k is {value!r}, expected a whole number", "activation")
    return value


def _running(value: Any, path: Path) -> float:
    if value is None:
        raise LoadError(
            f"{path}: running_threshold is None: this BatchTopKSAE was never trained, and its "
            "latents depend on the rest of their batch",
            "batch_mates",
        )
    if is_tensor(value) and value.numel() == 1:
        value = float(value)
    if type(value) is not float or value != value:
        raise LoadError(f"{path}: running_threshold is {value!r}, expected a number", "threshold")
    return value


def _function(value: Any) -> str | None:
    """l2 of ``normalize_l2``, a function of the library that was read as a class of that name."""
    if isinstance(value, type) and value.__module__ == "overcomplete.sae.dictionary":
        return value.__name__.removeprefix("normalize_")
    return None if value is None else str(value)


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
        fused.shape != rows.shape or not fused.float().allclose(rows, _ROUNDING, 1e-6)
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
    weights = W.relu()
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
