"""Unembedding: final hidden states → logits, in float32 or better for every dtype of the model.

Half-precision logits are rounded to 8 or 11 bits: with logits of about 20 a bfloat16 cross-entropy
is off by up to 0.06 nats. The final hidden states are still those of the model, in its own dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.errors import SetupError

# Key of the Hugging Face config (Gemma 2). The model applies the cap after its unembedding module.
_SOFT_CAP = "final_logit_softcapping"

# ‖difference‖ / ‖logits‖ up to which logits count as equal. In float32 they differ by the order of
# additions; in half precision also by rounding to 8 bits, several times with a soft cap.
_TOLERANCE, _HALF_PRECISION_TOLERANCE = 1e-5, 1e-2


class _Affine(NamedTuple):
    weight: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"]


@dataclass(frozen=True, eq=False)
class Unembedding:
    """Computes logits from the final hidden states of a model (``ln_final.hook_out``)."""

    _module: Any = field(repr=False)
    _config: Any = field(repr=False)
    """Config of the Hugging Face model."""
    _affine: _Affine | None = field(repr=False)
    """Weight and bias in float32 or better; None if the module's weight is not in memory, or the
    module computes something else than their product."""
    vocabulary_size: int
    """Number of tokens that have a logit."""

    @classmethod
    def from_bridge(cls, bridge: Any, name: str) -> Unembedding:
        """Return the unembedding of a bridge of TransformerLens.

        For a model in half precision this copies the matrix to float32, so use the cached
        `LanguageModel.unembedding` where possible.

        Args:
            bridge: The bridge.
            name: Name of the model, for messages.

        Raises:
            SetupError: TransformerLens knows no unembedding of this model.
        """
        module = getattr(bridge, "unembed", None)
        if module is None:
            raise SetupError(
                f"{name} has no unembedding that TransformerLens knows; allowed: causal "
                "language models that TransformerLens supports"
            )
        with torch.inference_mode():
            config = bridge.original_model.config
            return cls(module, config, _affine(module), int(bridge.cfg.d_vocab))

    @property
    def soft_cap(self) -> float | None:
        """Soft cap c of the logits, which are c·tanh(x / c); None if they are not capped."""
        config = self._config
        cap = getattr(config, _SOFT_CAP, None)
        # A model for text and images has the config of its language model inside of its own.
        if cap is None and hasattr(config, "get_text_config"):
            cap = getattr(config.get_text_config(), _SOFT_CAP, None)
        return cap

    @property
    def has_matrix(self) -> bool:
        """True if logits are computed from a matrix in float32 or better, not by the module."""
        return self._affine is not None

    @property
    def linear(self) -> bool:
        """True if the logits are ``final @ weight.T + bias``."""
        return self.has_matrix and self.soft_cap is None

    @property
    def weight(self) -> Float[Tensor, "vocab d_model"]:
        """Matrix in float32 or better; shares the memory of a model in that precision."""
        return self._matrix.weight

    @property
    def bias(self) -> Float[Tensor, " vocab"]:
        """Bias on the device and in the dtype of ``weight``; zeros if the model has none."""
        return self._matrix.bias

    @property
    def _matrix(self) -> _Affine:
        if self._affine is None or not self.linear:
            raise RuntimeError("this unembedding is not linear")
        return self._affine

    def logits(self, final: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocab"]:
        """Return the logits of final hidden states, in float32 or better.

        Args:
            final: Final hidden states in any dtype, on any device.

        Returns:
            Logits on the device of the weight.
        """
        with torch.inference_mode():
            logits = self._uncapped(final)
            cap = self.soft_cap
            return logits if cap is None else (logits / cap).tanh() * cap

    def reproduces(
        self, final: Float[Tensor, "tokens d_model"], logits: Float[Tensor, "tokens vocab"]
    ) -> bool:
        """Return whether this unembedding turns the hidden states into these logits.

        Args:
            final: Final hidden states.
            logits: Logits of the model; they may differ by the rounding of their dtype.
        """
        if self._affine is not None and final.shape[-1] != self._affine.weight.shape[1]:
            return False
        return _equal_up_to_rounding(self.logits(final), logits)

    def _uncapped(self, final: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocab"]:
        if self._affine is not None:
            return torch.nn.functional.linear(final.to(self._affine.weight), *self._affine)
        logits: Tensor = self._module(final.unsqueeze(0)).squeeze(0)
        return logits.to(_float32_or_better(logits.dtype))


def _float32_or_better(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _affine(module: Any) -> _Affine | None:
    """Return the weight and the bias of the module, if it computes just their product."""
    try:
        weight, bias = module.W_U.T, module.b_U  # W_U is [d_model, vocab]
    # TransformerLens raises these if the module has no matrix, or not under the usual name.
    except (AttributeError, AssertionError, RuntimeError):
        return None
    # An offloaded weight is on the meta device until it is used; a quantised one holds integers.
    if weight.is_meta or bias.is_meta or weight.ndim != 2 or not weight.is_floating_point():
        return None
    dtype = _float32_or_better(weight.dtype)
    affine = _Affine(weight.detach().to(dtype), bias.detach().to(weight.device, dtype))
    return affine if _is_affine(module, weight.dtype, affine) else None


def _is_affine(module: Any, dtype: torch.dtype, affine: _Affine) -> bool:
    """Return whether the module computes the affine map, tried on a few random vectors."""
    # A generator of its own leaves torch's global random state as it is.
    vectors = torch.randn(4, affine.weight.shape[1], generator=torch.Generator().manual_seed(0))
    vectors = vectors.to(affine.weight.device, dtype)
    # A module of the bridge takes [batch, pos, d_model].
    model_logits = module(vectors.unsqueeze(0)).squeeze(0)
    logits = torch.nn.functional.linear(vectors.to(affine.weight), *affine)
    return _equal_up_to_rounding(logits, model_logits)


def _equal_up_to_rounding(logits: Tensor, model_logits: Tensor) -> bool:
    if logits.shape != model_logits.shape:
        return False
    tolerance = _TOLERANCE if model_logits.dtype.itemsize >= 4 else _HALF_PRECISION_TOLERANCE
    return bool((model_logits.to(logits) - logits).norm() <= tolerance * logits.norm())
