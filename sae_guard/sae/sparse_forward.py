"""An SAE run over many tokens: encoded once, decoded by the cheaper way, in bounded memory.

Of the many latents of a token few are active, so that reading their decoder rows is cheaper than
multiplying by the whole decoder; and where few are selected (`Selected`), the rest are never
written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_guard.sae.activations import AbsTopK, GroupMax, Selected, TopK
from sae_guard.sae.autoencoder import SAE

_ELEMENTS = 2**24

# `benchmarks/coding.py` (d_in 768, d_sae 24,576, EPYC): the two ways cost the same at 1/24 with two
# threads, at 1/12 with one, and TopK later than JumpReLU.
_GATHER_UP_TO = 1 / 32

# What follows the encoder runs on this many latents at a time on CPUs. There, temporary tensors
# that fit in the cache cost a tenth of those that have to be fetched from the system each time;
# the matrix product wants many tokens at once.
_BLOCK = 2**20


Term = Callable[[Tensor], Tensor]
"""Latents of any shape → a number for each, which is 0 for a latent that is 0."""


class Coded(NamedTuple):
    """What an SAE makes of tokens, without their latents; all on the SAE's device."""

    reconstruction: Float[Tensor, "tokens d_out"]
    l0: Int[Tensor, " tokens"]
    """Latents that are not zero, int64."""
    firings: Int[Tensor, " d_sae"]
    """Scored tokens on which each latent is not zero, int64."""
    sums: Mapping[str, Float[Tensor, " tokens"]]
    """Of each term that was asked for, Σ term(latent), summed in float64 (on MPS, which has none,
    in float32)."""
    pairs: Int[Tensor, "2 active"] | None = None
    """Each scored token with each of its active latents, where asked for; int64."""


class _Part(NamedTuple):
    """Of a chunk: what `Coded` holds, the reconstruction in the normalised space."""

    decoded: Tensor
    l0: Tensor
    sums: Mapping[str, Tensor]
    pairs: Tensor | None


@torch.no_grad()
def code(
    sae: SAE,
    x: Float[Tensor, "tokens d_in"],
    *,
    scored: Bool[Tensor, " tokens"] | None = None,
    terms: Mapping[str, Term] = MappingProxyType({}),
    elements: int = _ELEMENTS,
    gather_up_to: float = _GATHER_UP_TO,
    pairs: bool = False,
) -> Coded:
    """Reconstructions, L0, firings and sums over the latents of tokens, as ``sae(x)`` has them.

    Args:
        sae: On the device of ``x``.
        x: Activations; several hundred tokens at once, or the encoder's weights are read too often.
        scored: Which tokens count as firings; all, by default. All are coded.
        terms: What is summed over the latents of each token, by a name.
        elements: How many pre-activations, and so latents, may exist at once; those of one token
            always do.
        gather_up_to: Up to which share of active latents their decoder rows are gathered; above it,
            and where that would not be exact, the decoder is multiplied by.
        pairs: Whether to say which latents are active on which token.
    """
    coder = _coder(sae, gather_up_to, terms, pairs=pairs)
    x = x.to(sae.W_enc.dtype)
    step = min(max(1, elements // sae.d_sae), len(x))
    space = x.new_empty(step, sae.d_sae)
    counted = x.new_ones(len(x), dtype=torch.bool) if scored is None else scored
    coded = Coded(
        x.new_empty(len(x), sae.d_out),
        x.new_empty(len(x), dtype=torch.int64),
        x.new_zeros(sae.d_sae, dtype=torch.int64),
        {name: x.new_empty(len(x), dtype=coder.exact) for name in terms},
    )
    found: list[Tensor] = []
    for start in range(0, len(x), step or 1):
        at = slice(start, start + step)
        normalised = sae.normalise(x[at])
        q = sae.pre_activations(normalised.value, out=space[: len(x[at])])
        part = (coder.selected if coder.selects else coder.all)(q, counted[at], coded.firings)
        coded.reconstruction[at] = sae.finish(part.decoded + sae.b_dec, x[at], normalised)
        coded.l0[at] = part.l0
        for name, sums in part.sums.items():
            coded.sums[name][at] = sums
        if part.pairs is not None:
            found.append(_later(part.pairs, start))
    return coded._replace(pairs=torch.cat(found, dim=1)) if found else coded


def _later(pairs: Tensor, start: int) -> Int[Tensor, "2 active"]:
    """Pairs of a part that starts at this token, as those of the whole."""
    return pairs + pairs.new_tensor([[start], [0]])


def _coder(sae: SAE, gather_up_to: float, terms: Mapping[str, Term], *, pairs: bool) -> _Coder:
    norms = sae.decoder_norms()
    # Zero times what is not finite is no zero: where rows or their scales are not, or a norm that
    # divides is zero, only the dense way gives the NaNs that there are.
    sound = norms.isfinite()
    if sae.rescale_by_decoder_norm != "none":
        sound &= norms > 0
    if sae.latent_scale is not None:
        sound &= sae.latent_scale.isfinite()
    gathers = sae.device.type in ("cpu", "cuda") and sae.W_dec.stride(-1) == 1
    return _Coder(
        sae,
        norms,
        gather_up_to if gathers and bool(sound.all()) else -1.0,
        terms,
        exact=torch.float32 if sae.device.type == "mps" else torch.float64,
        pairs=pairs,
    )


@dataclass(frozen=True, eq=False)
class _Coder:
    """From the pre-activations of a chunk to its `_Part`; what is the same for all is made once."""

    sae: SAE
    norms: Float[Tensor, " d_sae"]
    gather_up_to: float
    """As `code` takes it; below zero where only the dense way is exact."""
    terms: Mapping[str, Term]
    exact: torch.dtype
    pairs: bool

    @property
    def selects(self) -> bool:
        """Whether the activation names the few latents that can be active."""
        activation = self.sae.activation
        return (
            isinstance(activation, TopK | AbsTopK | GroupMax)
            and activation.k <= self.gather_up_to * self.sae.d_sae
        )

    def selected(self, q: Tensor, counted: Tensor, firings: Tensor) -> _Part:
        """Of an activation that `selects`: its latents are never all written down."""
        parts = [self._select(block) for block in self._blocks(q)]
        values = torch.cat([part.values for part in parts])
        indices = torch.cat([part.indices for part in parts])
        if self.sae.rescale_by_decoder_norm == "selection":
            values = values / self.norms[indices]
        active = values != 0
        scored = active & counted[:, None]
        firings.index_add_(0, indices.flatten(), scored.flatten().long())
        pairs = torch.stack([scored.nonzero()[:, 0], indices[scored]]) if self.pairs else None
        decoded = embedding_bag(
            indices,
            self.sae.W_dec,
            mode="sum",
            per_sample_weights=self._weights(values, indices),
        )
        return _Part(decoded, active.sum(dim=-1), self._sums([values]), pairs)

    def all(self, q: Tensor, counted: Tensor, firings: Tensor) -> _Part:
        """Of any activation: latents take the place of their pre-activations, then are decoded."""
        l0 = torch.empty(len(q), dtype=torch.int64, device=q.device)
        blocks = self._blocks(q)
        counts = torch.split(l0, len(blocks[0]))
        weights = torch.split(counted.to(q.dtype), len(blocks[0]))
        found: list[Tensor] = []
        for block, count, weight in zip(blocks, counts, weights, strict=True):
            latents = self.sae.latents(block, self.norms)
            block.copy_(latents)
            active = latents.ne_(0)  # 0.0 and 1.0: sums are exact up to 2**24, and fast
            count.copy_(active.sum(dim=-1))
            firings += (weight @ active).long()
            if self.pairs:
                scored = (active * weight[:, None]).nonzero().T
                found.append(_later(scored, len(blocks[0]) * len(found)))
        pairs = torch.cat(found, dim=1) if found else None
        if int(l0.sum()) <= self.gather_up_to * q.numel():
            return self._gathered(q, l0)._replace(pairs=pairs)
        sums = self._sums(blocks)
        if self.sae.rescale_by_decoder_norm == "latents":
            q.div_(self.norms)
        if self.sae.latent_scale is not None:
            q.mul_(self.sae.latent_scale)
        return _Part(q @ self.sae.W_dec, l0, sums, pairs)

    def _gathered(self, latents: Tensor, l0: Tensor) -> _Part:
        token, indices = latents.nonzero(as_tuple=True)
        values = latents[token, indices]
        sums = {
            name: torch.segment_reduce(term(values).to(self.exact), "sum", lengths=l0, unsafe=True)
            for name, term in self.terms.items()
        }
        decoded = embedding_bag(
            indices,
            self.sae.W_dec,
            offsets=l0.cumsum(0) - l0,
            mode="sum",
            per_sample_weights=self._weights(values, indices),
        )
        return _Part(decoded, l0, sums, None)

    def _sums(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Sums of the terms over latents that lie in blocks of tokens [tokens, latents]."""
        return {
            name: torch.cat([term(block).sum(dim=-1, dtype=self.exact) for block in blocks])
            for name, term in self.terms.items()
        }

    def _select(self, q: Tensor) -> Selected:
        assert isinstance(self.sae.activation, TopK | AbsTopK | GroupMax)
        rescaled = self.sae.rescale_by_decoder_norm != "none"
        return self.sae.activation.select(q * self.norms if rescaled else q)

    def _weights(self, values: Tensor, indices: Tensor) -> Tensor:
        """What the decoder multiplies the rows of ``indices`` by, as `SAE.decode` has it."""
        if self.sae.rescale_by_decoder_norm == "latents":
            values = values / self.norms[indices]
        if self.sae.latent_scale is not None:
            values = values * self.sae.latent_scale[indices]
        return values

    def _blocks(self, chunk: Tensor) -> tuple[Tensor, ...]:
        rows = _BLOCK // self.sae.d_sae if chunk.device.type == "cpu" else len(chunk)
        return torch.split(chunk, max(1, rows))
