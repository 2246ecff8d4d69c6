"""Final hidden states → logits, in float32 or better whatever the model computes in.

Half-precision logits are rounded to 8 or 11 bits: with logits of about 20 a bfloat16 cross-entropy
is off by up to 0.06 nats. The final hidden states are the model's; what follows them is widened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.errors import SetupError

_SOFT_CAP = "final_logit_softcapping"  # Gemma 2; the model applies it after its unembedding

# ‖difference‖ / ‖logits‖ of a matrix product beside what it stands for: kernels add in another
# order, and halves are rounded to 8 bits, with a soft cap a few times.
_TOLERANCE, _TOLERANCE_OF_HALVES = 1e-5, 1e-2


class BridgedModel(Protocol):
    """Holds a bridge of TransformerLens: what an unembedding is made of."""

    @property
    def bridge(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def vocabulary_size(self) -> int: ...


class _Affine(NamedTuple):
    weight: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"]


@dataclass(frozen=True, eq=False)
class Unembedding:
    """What the model makes of its final hidden states (``ln_final.hook_out``)."""

    _module: Any = field(repr=False)
    _config: Any = field(repr=False)
    """Of the Hugging Face model."""
    _affine: _Affine | None = field(repr=False)
    """In float32 or better; None where the module is no matrix that is at hand."""
    vocabulary_size: int
    """Tokens that are predicted over."""

    @classmethod
    def of(cls, model: BridgedModel) -> Unembedding:
        """The unembedding of a model; raises `SetupError` where it has none.

        A model of halves is given a float32 copy of its matrix: ask `LanguageModel.unembedding`,
        which keeps it.
        """
        module = getattr(model.bridge, "unembed", None)
        if module is None:
            raise SetupError(f"{model.name} has no unembedding that TransformerLens knows")
        with torch.inference_mode():
            config = model.bridge.original_model.config
            return cls(module, config, _affine(module), model.vocabulary_size)

    @property
    def soft_cap(self) -> float | None:
        """c where the logits are c·tanh(x / c)."""
        config = self._config
        found = getattr(config, _SOFT_CAP, None)
        if found is None and hasattr(config, "get_text_config"):  # of a model that sees images
            found = getattr(config.get_text_config(), _SOFT_CAP, None)
        return found

    @property
    def wide(self) -> bool:
        """Whether they are computed from a matrix in float32 or better, not by the module."""
        return self._affine is not None

    @property
    def linear(self) -> bool:
        """Whether the logits are ``final @ weight.T + bias``."""
        return self.wide and self.soft_cap is None

    @property
    def weight(self) -> Float[Tensor, "vocab d_model"]:
        """In float32 or better: the model's own storage unless that is of halves."""
        return self._matrix.weight

    @property
    def bias(self) -> Float[Tensor, " vocab"]:
        """Of the dtype and device of ``weight``; zeros where the model has none."""
        return self._matrix.bias

    @property
    def _matrix(self) -> _Affine:
        if self._affine is None or not self.linear:
            raise RuntimeError("this unembedding is not linear")
        return self._affine

    def logits(self, final: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocab"]:
        """Logits in float32 or better, on the device of the weight."""
        with torch.inference_mode():
            logits = self._raw(final)
            cap = self.soft_cap
            return logits if cap is None else (logits / cap).tanh() * cap

    def gives(
        self,
        final: Float[Tensor, "tokens d_model"],
        logits: Float[Tensor, "tokens vocab"],
    ) -> bool:
        """Whether the logits of these are the given ones, but for the rounding of their dtype."""
        if self._affine is not None and final.shape[-1] != self._affine.weight.shape[1]:
            return False
        return _close(self.logits(final), logits)

    def _raw(self, final: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocab"]:
        if self._affine is not None:
            return torch.nn.functional.linear(final.to(self._affine.weight), *self._affine)
        logits: Tensor = self._module(final.unsqueeze(0)).squeeze(0)
        return logits.to(_wide(logits.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _affine(module: Any) -> _Affine | None:
    """The module as a matrix and a bias, if it does what they do."""
    try:
        weight, bias = module.W_U.T, module.b_U  # TransformerLens has them [d_model, vocab]
    except (AttributeError, AssertionError, RuntimeError):  # no matrix, or not where it says
        return None
    # An offloaded weight is on the meta device until it is used; a quantised one is of integers.
    if weight.is_meta or bias.is_meta or weight.ndim != 2 or not weight.is_floating_point():
        return None
    wide = _wide(weight.dtype)
    found = _Affine(weight.detach().to(wide), bias.detach().to(weight.device, wide))
    return found if _does_the_same(module, weight.dtype, found) else None


def _does_the_same(module: Any, dtype: torch.dtype, affine: _Affine) -> bool:
    """Whether the module gives what the matrix does, on a few vectors."""
    # Of its own generator: nobody's random numbers are moved.
    vectors = torch.randn(4, affine.weight.shape[1], generator=torch.Generator().manual_seed(0))
    vectors = vectors.to(affine.weight.device, dtype)
    theirs = module(vectors.unsqueeze(0)).squeeze(0)
    mine = torch.nn.functional.linear(vectors.to(affine.weight), *affine)
    return _close(mine, theirs)


def _close(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    tolerance = _TOLERANCE if theirs.dtype.itemsize >= 4 else _TOLERANCE_OF_HALVES
    return bool((theirs.to(mine) - mine).norm() <= tolerance * mine.norm())
