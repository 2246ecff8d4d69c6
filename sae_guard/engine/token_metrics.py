"""Token-level formulas: tensors in, one number per token out; and the masked sums over a sequence.

Natural logarithm throughout. Positions are those that predict a next token: with tokens
``t_0 … t_{T-1}`` position ``p`` predicts ``t_{p+1}``, so there are ``T-1`` of them.

The tables at the end say which formula a column of the measurement has, by what it is made of.
`sae_guard.core.metrics.ALL_COLUMNS` has the same names, and says the rest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def log_probs(logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "... vocab"]:
    """Log-probabilities in nats, in float32 or better whatever the model computes in.

    Not by ``log_softmax``, which on CPUs sums so that a peaked distribution is off by 1e-5.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide - wide.logsumexp(dim=-1, keepdim=True)


def kl_divergence(
    log_p: Float[Tensor, "... vocab"], log_q: Float[Tensor, "... vocab"]
) -> Float[Tensor, ...]:
    """KL(P‖Q) = Σ_v P(v)·(log P(v) − log Q(v)) in nats: P is the clean model, Q the patched one.

    Computed as Σ P·(eᵈ − 1 − d) with d = log Q − log P, which is the same number because P and Q
    both sum to 1, but whose terms are each ≥ 0: nothing cancels, and a rounding error of log Z
    enters squared. Tokens that P excludes (log P = −∞) contribute Q.
    """
    p, d = log_p.exp(), log_q - log_p
    near = p * (torch.expm1(d) - d)
    far = log_q.exp() - p - p * d  # eᵈ overflows where Q ≫ P
    terms = torch.where(d.abs() < 1, near, far).clamp_min(0)
    return torch.where(p == 0, log_q.exp(), terms).sum(dim=-1)


def entropy(log_p: Float[Tensor, "... vocab"]) -> Float[Tensor, ...]:
    """−Σ_v P(v)·log P(v), in nats; 0 for what P excludes (log P = −∞)."""
    entropies: Tensor = torch.special.entr(log_p.exp()).sum(dim=-1)
    return entropies


def cross_entropy(
    log_q: Float[Tensor, "*batch pos vocab"], target: Int[Tensor, "*batch pos"]
) -> Float[Tensor, "*batch pos"]:
    """−log Q(actual next token), in nats."""
    return -log_q.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def active(latents: Float[Tensor, "... d_sae"]) -> Bool[Tensor, "... d_sae"]:
    """Mark the latents that are not zero; signed latents (abstopk) count too."""
    return latents != 0


def squared_distance(
    x: Float[Tensor, "... d_in"], y: Float[Tensor, "... d_in"]
) -> Float[Tensor, ...]:
    """‖x − y‖², summed over d_in."""
    return (x - y).square().sum(dim=-1)


def cosine(x: Float[Tensor, "... d_in"], x_hat: Float[Tensor, "... d_in"]) -> Float[Tensor, ...]:
    """cos(x, x̂); 0 where one of them is the zero vector, which has no direction to agree on."""
    return torch.nn.functional.cosine_similarity(x, x_hat, dim=-1)


def l2_ratio(x: Float[Tensor, "... d_in"], x_hat: Float[Tensor, "... d_in"]) -> Float[Tensor, ...]:
    """‖x̂‖ / ‖x‖; not finite where x is zero, which no verdict lets pass."""
    ratio: Tensor = x_hat.norm(dim=-1) / x.norm(dim=-1)
    return ratio


def masked_sums(
    per_token: Float[Tensor, "batch pos"] | Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, " batch"]:
    """One float64 sum per sequence over the tokens of ``mask``, on the CPU.

    What lies outside the mask is never touched: a NaN there does not reach the sum, one inside
    does.
    """
    # MPS has no float64, so the cast follows the move.
    return torch.where(mask, per_token, 0).cpu().double().sum(dim=-1)


class Predictions(NamedTuple):
    """Log-probabilities of the next tokens by a run of the model, beside those of the clean run."""

    log_p: Float[Tensor, "*tokens vocab"]
    """Of the clean run, in nats."""
    log_q: Float[Tensor, "*tokens vocab"]
    """Of the run that the column is about; ``log_p`` where that is the clean run."""
    target: Int[Tensor, "*tokens"]
    """The actual next tokens."""


# Each looks its formula up when it is called, so that a test can put another in its place.


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
"""Columns of the tokens alone: formulas over the next tokens."""

RECONSTRUCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"sq_error": squared_distance, "cosine": cosine, "l2_ratio": l2_ratio}
)
"""Columns of the reconstruction: formulas over the activation and it, [..., d_out] each."""

DEVIATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"sq_deviation": squared_distance}
)
"""Columns about μ: formulas over the activation [..., d_out] and μ [d_out]. Before μ is known,
`ablation.moments` sums what they need."""

LATENTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"l0": active, "l1": torch.abs}
)
"""Columns of the latents: their term of each latent, which is 0 for 0, so that the sum over a
token's latents is that over its active ones."""

LOSSES: Mapping[ModelRun, Mapping[str, Loss]] = MappingProxyType(
    {
        "clean run": {"ce_clean": cross_entropy_of, "entropy": entropy_of},
        "patched run": {"kl": kl_of, "ce_patched": cross_entropy_of},
        "random error run": {"kl_random_error": kl_of},
    }
)
"""Columns of the losses, by the run that they are of."""

ABLATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"ce_zero": torch.zeros_like, "ce_mean": torch.clone}
)
"""Columns of ablations: μ [d_out] → the value that takes the activation's place while the
cross-entropy is taken."""
