"""Token-level formulas: tensors in, one number per token out; and the masked sums over a sequence.

Logarithms are natural. Positions are those that predict a next token: with tokens
``t_0 … t_{T-1}`` position ``p`` predicts ``t_{p+1}``, so there are ``T-1`` of them.

The tables at the end map each column of a measurement to its formula, grouped by the tensors that
the formula takes. `sae_guard.core.metrics.ALL_COLUMNS` has the other properties of the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def log_probs(logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "... vocab"]:
    """Return log-probabilities in nats, in float32 or wider for any dtype of the logits.

    ``log_softmax`` is not used: on CPUs its error for a peaked distribution is 1e-5.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide - wide.logsumexp(dim=-1, keepdim=True)


def kl_divergence(
    log_p: Float[Tensor, "... vocab"], log_q: Float[Tensor, "... vocab"]
) -> Float[Tensor, ...]:
    """Compute KL(P‖Q) = Σ_v P(v)·(log P(v) − log Q(v)) in nats; P is the clean model, Q the other.

    It is summed as Σ P·(eᵈ − 1 − d) with d = log Q − log P, which is equal since P and Q both sum
    to 1. All its terms are ≥ 0, so that nothing cancels, and a rounding error of log Z enters
    squared. Tokens that P excludes (log P = −∞) contribute Q.

    Args:
        log_p: Log-probabilities of the clean model.
        log_q: Log-probabilities of the patched model.
    """
    p, d = log_p.exp(), log_q - log_p
    # eᵈ − 1 loses its digits near d = 0; `expm1` keeps them.
    small_d = p * (torch.expm1(d) - d)
    large_d = log_q.exp() - p - p * d  # eᵈ overflows where Q ≫ P
    terms = torch.where(d.abs() < 1, small_d, large_d).clamp_min(0)
    return torch.where(p == 0, log_q.exp(), terms).sum(dim=-1)


def entropy(log_p: Float[Tensor, "... vocab"]) -> Float[Tensor, ...]:
    """Compute −Σ_v P(v)·log P(v) in nats; tokens that P excludes (log P = −∞) contribute 0."""
    entropies: Tensor = torch.special.entr(log_p.exp()).sum(dim=-1)
    return entropies


def cross_entropy(
    log_q: Float[Tensor, "*batch pos vocab"], target: Int[Tensor, "*batch pos"]
) -> Float[Tensor, "*batch pos"]:
    """Compute −log Q(next token of the text), in nats."""
    return -log_q.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def active(latents: Float[Tensor, "... d_sae"]) -> Bool[Tensor, "... d_sae"]:
    """Mark the latents that are not zero; signed latents (abstopk) count too."""
    return latents != 0


def squared_distance(
    x: Float[Tensor, "... d_in"], y: Float[Tensor, "... d_in"]
) -> Float[Tensor, ...]:
    """Compute ‖x − y‖², summed over d_in."""
    return (x - y).square().sum(dim=-1)


def cosine(x: Float[Tensor, "... d_in"], x_hat: Float[Tensor, "... d_in"]) -> Float[Tensor, ...]:
    """Compute cos(x, x̂); 0 where one of them is the zero vector, which has no direction."""
    return torch.nn.functional.cosine_similarity(x, x_hat, dim=-1)


def l2_ratio(x: Float[Tensor, "... d_in"], x_hat: Float[Tensor, "... d_in"]) -> Float[Tensor, ...]:
    """Compute ‖x̂‖ / ‖x‖; not finite where x is zero, so that no verdict passes."""
    ratio: Tensor = x_hat.norm(dim=-1) / x.norm(dim=-1)
    return ratio


def masked_sums(
    per_token: Float[Tensor, "batch pos"] | Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, " batch"]:
    """Sum over the masked tokens of each sequence, in float64 on the CPU.

    A NaN outside the mask does not reach the sum; a NaN inside does.

    Args:
        per_token: Value of each token.
        mask: Tokens that are summed.
    """
    # MPS has no float64, so the cast follows the move.
    return torch.where(mask, per_token, 0).cpu().double().sum(dim=-1)


class Predictions(NamedTuple):
    """Log-probabilities of the next tokens in a run of the model and in the clean run."""

    log_p: Float[Tensor, "*tokens vocab"]
    """Log-probabilities of the clean run, in nats."""
    log_q: Float[Tensor, "*tokens vocab"]
    """Log-probabilities of the run that a column describes, which may be the clean run itself."""
    target: Int[Tensor, "*tokens"]
    """Next tokens of the text."""


# These functions look up their formula when they are called, so that a test can replace it.


def kl_of(predictions: Predictions) -> Float[Tensor, "*tokens"]:
    """Compute `kl_divergence` of a run from the clean one."""
    return kl_divergence(predictions.log_p, predictions.log_q)


def cross_entropy_of(predictions: Predictions) -> Float[Tensor, "*tokens"]:
    """Compute `cross_entropy` of a run."""
    return cross_entropy(predictions.log_q, predictions.target)


def entropy_of(predictions: Predictions) -> Float[Tensor, "*tokens"]:
    """Compute `entropy` of a run."""
    return entropy(predictions.log_q)


ModelRun = Literal["clean run", "patched run", "random error run"]
Loss = Callable[[Predictions], Tensor]

COUNTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"n_tokens": torch.ones_like})
"""Column → formula over the next tokens."""

RECONSTRUCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"sq_error": squared_distance, "cosine": cosine, "l2_ratio": l2_ratio}
)
"""Column → formula over the activation and its reconstruction, both [..., d_out]."""

DEVIATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"sq_deviation": squared_distance}
)
"""Column → formula over the activation [..., d_out] and its mean μ [d_out]. The fast path computes
these columns from `ablation.moments`, since it does not know μ while it runs batches."""

LATENTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"l0": active, "l1": torch.abs}
)
"""Column → term of each latent, which is summed over the latents of a token. A term maps 0 to 0, so
that summing over the active latents is enough."""

LOSSES: Mapping[ModelRun, Mapping[str, Loss]] = MappingProxyType(
    {
        "clean run": {"ce_clean": cross_entropy_of, "entropy": entropy_of},
        "patched run": {"kl": kl_of, "ce_patched": cross_entropy_of},
        "random error run": {"kl_random_error": kl_of},
    }
)
"""Run of the model → column → formula over its `Predictions`."""

ABLATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"ce_zero": torch.zeros_like, "ce_mean": torch.clone}
)
"""Column → function from μ [d_out] to the value that replaces the activation; the column is the
cross-entropy of that run."""
