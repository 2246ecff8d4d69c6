"""Activation families of SAEs: pre-activations q [*batch, d_sae] → latents of the same shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Latents = Float[Tensor, "*batch d_sae"]


class Selected(NamedTuple):
    """The k latents of each token that may be other than zero, in no order."""

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]

    def among(self, q: Latents) -> Latents:
        """All latents, zero where none was selected."""
        return torch.zeros_like(q).scatter(-1, self.indices, self.values)


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
        return self.select(q).among(q)

    def select(self, q: Latents) -> Selected:
        """The latents that are kept, found by partial selection: nothing of d_sae is sorted."""
        largest = q.topk(self.k, dim=-1, sorted=False)
        return Selected(torch.relu(largest.values), largest.indices)


@dataclass(frozen=True, eq=False)
class AbsTopK:
    """The k largest of each token by |q|, with their signs."""

    k: int
    architecture = "abstopk"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        return self.select(q).among(q)

    def select(self, q: Latents) -> Selected:
        """The latents that are kept."""
        largest = q.abs().topk(self.k, dim=-1, sorted=False).indices
        return Selected(q.gather(-1, largest), largest)


@dataclass(frozen=True, eq=False)
class GroupMax:
    """The largest of each of k contiguous groups of latents, where positive (sparsify)."""

    k: int
    architecture = "groupmax"

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations; k divides their number."""
        return self.select(q).among(q)

    def select(self, q: Latents) -> Selected:
        """The latents that are kept."""
        groups = torch.relu(q).reshape(*q.shape[:-1], self.k, -1)
        largest = groups.max(dim=-1)
        first = torch.arange(0, q.shape[-1], groups.shape[-1], device=q.device)
        return Selected(largest.values, largest.indices + first)


@dataclass(frozen=True, eq=False)
class JumpReLU:
    """q where it exceeds its latent's threshold, else 0 (Rajamanoharan et al., 2407.14435)."""

    threshold: Float[Tensor, " d_sae"]
    inclusive: bool = False
    """Whether q equal to the threshold is kept (overcomplete does)."""
    architecture = "jumprelu"

    @property
    def trained(self) -> bool:
        """Whether no threshold is below 0 and not all are 0: such values mark an untrained one."""
        return not bool((self.threshold < 0).any()) and bool((self.threshold > 0).any())

    def __call__(self, q: Latents) -> Latents:
        """Latents of the pre-activations."""
        # In place on a copy, a comparison gives 0.0 and 1.0: a tenth of what bools cost on CPUs.
        kept = q.clone()
        kept = kept.ge_(self.threshold) if self.inclusive else kept.gt_(self.threshold)
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
