"""Activation functions of SAEs: pre-activations q [*batch, d_sae] → latents of the same shape.

q is the output of the encoder, bias included (`Gated` alone adds biases of its own). The latents
of a token depend on no other token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Latents = Float[Tensor, "*batch d_sae"]


class SelectedLatents(NamedTuple):
    """The k latents of each token that can be non-zero, in no particular order."""

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]

    def to_dense(self, like: Latents) -> Latents:
        """Return all latents, with zeros where none was selected.

        Args:
            like: Tensor that the result takes its shape [*batch, d_sae], dtype and device from.
        """
        return torch.zeros_like(like).scatter(-1, self.indices, self.values)


@dataclass(frozen=True, eq=False)
class ReLU:
    """f(q) = max(q, 0)."""

    architecture = "standard"

    def __call__(self, q: Latents) -> Latents:
        """Return the latents of pre-activations."""
        return torch.relu(q)


@dataclass(frozen=True, eq=False)
class TanhReLU:
    """f(q) = tanh(max(q, 0)) (SAELens before 6, and a fork of AI Safety Foundation's library)."""

    architecture = "tanh_relu"

    def __call__(self, q: Latents) -> Latents:
        """Return the latents of pre-activations."""
        return torch.relu(q).tanh()


@dataclass(frozen=True, eq=False)
class Selecting:
    """Base of the functions that select the k latents of each token that can be non-zero."""

    k: int

    def __call__(self, q: Latents) -> Latents:
        """Return the latents of pre-activations."""
        return self.select(q).to_dense(like=q)

    def select(self, q: Latents) -> SelectedLatents:
        """Return the selected latents of each token."""
        raise NotImplementedError


class TopK(Selecting):
    """The k largest of each token, where positive (Gao et al. 2024, arXiv:2406.04093)."""

    architecture = "topk"

    def select(self, q: Latents) -> SelectedLatents:
        """Return the k largest latents of each token; negative ones become 0."""
        # Unsorted: the order among the k is not used, and sorting them costs time.
        largest = q.topk(self.k, dim=-1, sorted=False)
        return SelectedLatents(torch.relu(largest.values), largest.indices)


class AbsTopK(Selecting):
    """The k largest of each token by |q|, with their signs."""

    architecture = "abstopk"

    def select(self, q: Latents) -> SelectedLatents:
        """Return the k latents of each token with the largest |q|."""
        indices = q.abs().topk(self.k, dim=-1, sorted=False).indices
        return SelectedLatents(q.gather(-1, indices), indices)


class GroupMax(Selecting):
    """The largest of each of k contiguous groups of latents, where positive (sparsify).

    k, the number of groups, divides d_sae.
    """

    architecture = "groupmax"

    def select(self, q: Latents) -> SelectedLatents:
        """Return the largest latent of each group; a negative one becomes 0."""
        groups = torch.relu(q).reshape(*q.shape[:-1], self.k, -1)  # [*batch, k, group_size]
        largest = groups.max(dim=-1)
        # max() counts within a group; adding where the group starts gives the index of the latent.
        group_starts = torch.arange(0, q.shape[-1], groups.shape[-1], device=q.device)
        return SelectedLatents(largest.values, largest.indices + group_starts)


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """q where it exceeds its latent's threshold, else 0 (Rajamanoharan et al., 2407.14435)."""

    threshold: Float[Tensor, " d_sae"]
    inclusive: bool = False
    """True if a latent is also active where q equals its threshold, as in overcomplete."""
    architecture = "jumprelu"

    @property
    def trained(self) -> bool:
        """True if no threshold is below 0 and not all are 0; other values were never trained."""
        return not bool((self.threshold < 0).any()) and bool((self.threshold > 0).any())

    def __call__(self, q: Latents) -> Latents:
        """Return the latents of pre-activations; a negative q is 0 whatever the threshold."""
        # In place on a copy, a comparison gives 0.0 and 1.0: a tenth of what bools cost on CPUs.
        is_active = q.clone()
        is_active = (
            is_active.ge_(self.threshold) if self.inclusive else is_active.gt_(self.threshold)
        )
        return torch.relu(q) * is_active


@dataclass(frozen=True, eq=False)
class Gated:
    """max(q·e^r + b_mag, 0) where q + b_gate > 0, else 0 (Rajamanoharan et al., 2404.16014)."""

    b_gate: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]
    r_mag: Float[Tensor, " d_sae"]
    """r: logarithm of the factor between the encoder weights of magnitude and gate."""
    architecture = "gated"

    def __call__(self, q: Latents) -> Latents:
        """Return the latents of pre-activations that contain no encoder bias."""
        return torch.relu(q * self.r_mag.exp() + self.b_mag) * (q + self.b_gate > 0)


Activation = ReLU | TanhReLU | TopK | AbsTopK | GroupMax | JumpReLU | Gated
