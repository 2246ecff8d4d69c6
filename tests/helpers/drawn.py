"""Weights and inputs with a fixed seed, and the comparison that every format's test ends in."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_guard.sae import SAE

D_IN, D_SAE = 6, 10


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal values; tensors of one test need different shapes or seeds."""
    generator = torch.Generator().manual_seed(sum(shape) + 1000 * seed)
    return torch.randn(*shape, generator=generator)


X = draw(2, 5, D_IN, seed=9) * 2
"""Activations with a batch and a position dimension."""


def topk(post: Tensor, k: int = 2) -> Tensor:
    """All but the k largest of each token set to 0."""
    top = post.topk(k, dim=-1)
    return torch.zeros_like(post).scatter(-1, top.indices, top.values)


def jumprelu(pre: Tensor, threshold: Tensor) -> Tensor:
    """Strictly above the threshold."""
    return torch.relu(pre) * (pre > threshold)


def check(sae: SAE, latents: Tensor, reconstruction: Tensor, x: Tensor = X) -> None:
    """The SAE gives these latents and this reconstruction, and L0 is the same, exactly."""
    mine = sae(x)
    assert torch.equal(mine.latents != 0, latents != 0)
    assert bool((mine.latents != 0).any())
    torch.testing.assert_close(mine.latents, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.reconstruction, reconstruction, rtol=1e-5, atol=1e-4)
