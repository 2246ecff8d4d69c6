"""SAEs to compare others with: some whose numbers are known beforehand, and what null models get.

The identity, zeros and the mean hold the machinery. The others are made of the checkpoint at hand
and show how much of its numbers takes no learning: more than one would think (Korznikov et al.
2026, arXiv:2602.14111, with random baselines that are trained; these are not).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae_guard.sae.activations import Activation, ReLU, TopK
from sae_guard.sae.autoencoder import SAE, SaeSource
from sae_guard.sae.sparse_forward import code


def identity_sae(d_in: int) -> SAE:
    """The control that reconstructs every bit: x = max(x, 0) − max(−x, 0), with 2·d_in latents."""
    eye = torch.eye(d_in)
    W_enc = torch.cat([eye, -eye], dim=1)
    return _control("identity", W_enc, W_enc.T.contiguous(), torch.zeros(d_in), ReLU())


def zero_sae(d_in: int) -> SAE:
    """The control that reconstructs zeros: what zero ablation does, by the path of an SAE."""
    return _constant("zero", torch.zeros(d_in))


def mean_sae(mean: Float[Tensor, " d_in"]) -> SAE:
    """The control that reconstructs μ: what mean ablation does, by the path of an SAE."""
    return _constant("mean", mean.float())


def permuted_decoder(sae: SAE, *, seed: int = 0) -> SAE:
    """The baseline whose latents point elsewhere: each has the direction of another's decoder row.

    Latents, and with them L0, stay as they are, and so does the length of each decoder row; rows of
    length 0 keep out of it.
    """
    norms = sae.decoder_norms().unsqueeze(-1)
    moved = (norms.squeeze(-1) > 0).nonzero().squeeze(-1)
    generator = torch.Generator().manual_seed(seed)
    moved = moved[torch.randperm(len(moved), generator=generator).to(moved.device)]
    taken = moved.roll(1)  # one cycle: none keeps its own
    W_dec = sae.W_dec.clone()
    W_dec[moved] = sae.W_dec[taken] / norms[taken] * norms[moved]
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
    """The baseline that has learnt nothing: as many latents, as many of them active, no features.

    Of random unit directions the k that point most along x − μ are active, each with its scalar
    product. One factor for all makes the error on the activations smallest; without it the sum
    would be too long, for the directions that are chosen overlap.

    Args:
        activations: Several thousand are enough.
        mean: μ.
        d_sae: Number of latents.
        k: Latents that are active.
        seed: Of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = normalize(torch.randn(d_sae, len(mean), generator=generator), dim=-1)
    W_dec, mean = drawn.to(activations.device), mean.float().to(activations.device)
    null = _control("random directions", W_dec.T, W_dec, mean, TopK(k))
    null = replace(null, b_enc=torch.zeros_like(W_dec[:, 0]), b_pre=mean)
    x = activations.to(W_dec.dtype)
    wanted, found = ((part - mean).cpu().double() for part in (x, code(null, x).reconstruction))
    factor = float((wanted * found).sum() / found.square().sum())
    return replace(null, latent_scale=torch.full_like(null.b_enc, factor))


def _constant(name: str, value: Tensor) -> SAE:
    return _control(name, torch.zeros(len(value), 1), torch.zeros(1, len(value)), value, ReLU())


def _control(name: str, W_enc: Tensor, W_dec: Tensor, b_dec: Tensor, activation: Activation) -> SAE:
    b_enc = torch.zeros(W_enc.shape[1])
    return SAE(W_enc, W_dec, b_enc, b_dec, activation, SaeSource(f"{name} control", "control"))
