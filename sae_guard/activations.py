"""Activation families of SAEs: pre-activations q [*batch, d_sae] → latents of the same shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "*batch d_sae"]


@dataclass(frozen=True, eq=False)
class ReLU:
    """f(q) = max(q, 0)."""

    architecture = "standard"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        return torch.relu(q)


@dataclass(frozen=True, eq=False)
class TanhReLU:
    """f(q) = tanh(max(q, 0)) (SAELens before 6, and a fork of AI Safety Foundation's library)."""

    architecture = "tanh_relu"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        return torch.relu(q).tanh()


@dataclass(frozen=True, eq=False)
class TopK:
    """The k largest of each token, where positive (Gao et al. 2024, arXiv:2406.04093)."""

    k: int
    architecture = "topk"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        largest = q.topk(self.k, dim=-1)
        return torch.zeros_like(q).scatter(-1, largest.indices, torch.relu(largest.values))


@dataclass(frozen=True, eq=False)
class AbsTopK:
    """The k largest of each token by |q|, with their signs."""

    k: int
    architecture = "abstopk"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        largest = q.abs().topk(self.k, dim=-1).indices
        return torch.zeros_like(q).scatter(-1, largest, q.gather(-1, largest))


@dataclass(frozen=True, eq=False)
class GroupMax:
    """The largest of each of k contiguous groups of latents, where positive (sparsify)."""

    k: int
    architecture = "groupmax"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations; k divides their number."""
        groups = torch.relu(q).reshape(*q.shape[:-1], self.k, -1)
        largest = groups.max(dim=-1, keepdim=True)
        kept = torch.zeros_like(groups).scatter(-1, largest.indices, largest.values)
        return kept.flatten(-2)


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """q where it exceeds its latent's threshold, else 0 (Rajamanoharan et al., 2407.14435)."""

    threshold: Float[Tensor, " d_sae"]
    inclusive: bool = False
    """Whether q equal to the threshold is kept (overcomplete does)."""
    architecture = "jumprelu"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        kept = q >= self.threshold if self.inclusive else q > self.threshold
        return torch.relu(q) * kept


@dataclass(frozen=True, eq=False)
class Gated:
    """max(q·e^r + b_mag, 0) where q + b_gate > 0, else 0 (Rajamanoharan et al., 2404.16014)."""

    b_gate: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    architecture = "gated"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations, which hold no encoder bias."""
        return torch.relu(q * self.r_mag.exp() + self.b_mag) * (q + self.b_gate > 0)


Activation = ReLU | TanhReLU | TopK | AbsTopK | GroupMax | JumpReLU | Gated
