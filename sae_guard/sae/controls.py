"""Controls: SAEs whose numbers are known in advance, or that have learnt nothing.

The identity, zero and mean controls test the measuring code. The other two are derived from the
checkpoint and show how good its numbers would be without learning, which can be surprisingly good
(Korznikov et al. 2026, arXiv:2602.14111; their random baselines are trained, these are not).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae_guard.sae.activations import Activation, ReLU, TopK
from sae_guard.sae.autoencoder import SAE, SaeSource
from sae_guard.sae.sparse_forward import sparse_forward


def identity_sae(d_in: int) -> SAE:
    """Return an SAE with 2·d_in latents that reconstructs every bit: x = max(x, 0) − max(−x, 0)."""
    eye = torch.eye(d_in)
    W_enc = torch.cat([eye, -eye], dim=1)  # [d_in, 2 * d_in]
    return _control("identity", W_enc, W_enc.T.contiguous(), torch.zeros(d_in), ReLU())


def zero_sae(d_in: int) -> SAE:
    """Return an SAE that reconstructs zeros: zero ablation, computed like any SAE."""
    return _constant("zero", torch.zeros(d_in))


def mean_sae(mean: Float[Tensor, " d_in"]) -> SAE:
    """Return an SAE that reconstructs μ: mean ablation, computed like any SAE."""
    return _constant("mean", mean.float())


def permuted_decoder(sae: SAE, *, seed: int = 0) -> SAE:
    """Return the SAE with the directions of its decoder rows permuted among the latents.

    Each latent gets the direction of another one. The latents, and with them L0, stay the same, and
    so does the length of each decoder row. Rows of length 0 have no direction and stay in place.

    Args:
        sae: The SAE to compare with.
        seed: Seed of the permutation.
    """
    norms = sae.decoder_norms().unsqueeze(-1)  # [d_sae, 1]
    rows = (norms.squeeze(-1) > 0).nonzero().squeeze(-1)
    # On the CPU for any device: CUDA draws other numbers from the same seed.
    generator = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    # Shifting a random order by one gives a permutation of one cycle: no row keeps its direction.
    donors = rows.roll(1)
    W_dec = sae.W_dec.clone()
    W_dec[rows] = sae.W_dec[donors] / norms[donors] * norms[rows]
    source = SaeSource(f"{sae.source.path}, decoder permuted", "control")
    return replace(sae, W_dec=W_dec, source=source)


def random_directions(
    activations: Float[Tensor, "tokens d_in"],
    mean: Float[Tensor, " d_in"],
    *,
    d_sae: int,
    k: int,
    seed: int = 0,
) -> SAE:
    """Return an SAE whose latents are random directions: with a given d_sae and L0, nothing learnt.

    Of d_sae random unit directions, the k with the largest scalar product with x − μ are active,
    and that product is their latent. All latents are multiplied by one factor, which minimises the
    squared error on the activations: without it the reconstruction is too long, since the selected
    directions overlap.

    Args:
        activations: Sample that the factor is fitted to; several thousand tokens are enough.
        mean: μ, the mean activation.
        d_sae: Number of latents.
        k: Number of active latents per token.
        seed: Seed of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(d_sae, len(mean), generator=generator), dim=-1)
    W_dec, mean = directions.to(activations.device), mean.float().to(activations.device)
    null = _control("random directions", W_dec.T, W_dec, mean, TopK(k))
    null = replace(null, b_enc=torch.zeros_like(W_dec[:, 0]), b_pre=mean)
    x = activations.to(W_dec.dtype)
    target = (x - mean).cpu().double()  # [tokens, d_in]; MPS has no float64
    estimate = (sparse_forward(null, x).reconstruction - mean).cpu().double()
    # Least squares: argmin_c ‖target − c·estimate‖² = ⟨target, estimate⟩ / ‖estimate‖².
    factor = float((target * estimate).sum() / estimate.square().sum())
    return replace(null, latent_scale=torch.full_like(null.b_enc, factor))


def _constant(name: str, value: Tensor) -> SAE:
    """Return a control with one latent, which is always 0, that reconstructs its decoder bias."""
    return _control(name, torch.zeros(len(value), 1), torch.zeros(1, len(value)), value, ReLU())


def _control(name: str, W_enc: Tensor, W_dec: Tensor, b_dec: Tensor, activation: Activation) -> SAE:
    b_enc = torch.zeros(W_enc.shape[1])
    return SAE(W_enc, W_dec, b_enc, b_dec, activation, SaeSource(f"{name} control", "control"))
