"""Token-level formulas: tensors in, one number per token out; and the masked sums over a sequence.

Natural logarithm throughout. Positions are those that predict a next token: with tokens
``t_0 … t_{T-1}`` position ``p`` predicts ``t_{p+1}``, so there are ``T-1`` of them.
"""

from __future__ import annotations

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


def l0(latents: Float[Tensor, "... d_sae"]) -> Int[Tensor, ...]:
    """Number of latents that are not zero; signed latents (abstopk) count too."""
    return (latents != 0).sum(dim=-1)


def l1(latents: Float[Tensor, "... d_sae"]) -> Float[Tensor, ...]:
    """Σ |latent|."""
    return latents.abs().sum(dim=-1)


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
