"""Forward pass of an SAE over many tokens: ``sae(x)``, but cheaper and in bounded memory.

Few of a token's latents are active. Gathering the decoder rows of these is cheaper than multiplying
by the whole decoder. Where the activation function selects the few latents that can be active
(`SelectedLatents`: TopK and the like), the other latents are not stored either.
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

from sae_guard.sae.activations import SelectedLatents, Selecting
from sae_guard.sae.autoencoder import SAE

_ELEMENTS = 2**24  # 64 MiB of float32 pre-activations

# Measured by `benchmarks/sparse_forward.py` (d_in 768, d_sae 24,576, EPYC): gathering and the dense
# product cost the same at a share of 1/24 with two threads and 1/12 with one; for TopK later than
# for JumpReLU.
_GATHER_UP_TO = 1 / 32

# After the encoder, CPUs work on this many latents at a time: temporary tensors that fit in the
# cache cost a tenth of those that the system has to provide anew. The encoder itself gets all
# tokens of a chunk, since a matrix product is faster with more of them.
_BLOCK = 2**20


Term = Callable[[Tensor], Tensor]
"""Elementwise function of latents that maps 0 to 0, such as `torch.abs`."""


class SparseForward(NamedTuple):
    """Reconstructions of tokens and statistics of their latents, on the device of the SAE."""

    reconstruction: Float[Tensor, "tokens d_out"]
    l0: Int[Tensor, " tokens"]
    """Number of non-zero latents of each token, int64."""
    firings: Int[Tensor, " d_sae"]
    """Number of scored tokens on which each latent is non-zero, int64."""
    sums: Mapping[str, Float[Tensor, " tokens"]]
    """Σ term(latent) of each token for each requested term, summed in float64 (float32 on MPS,
    which has no float64)."""
    pairs: Int[Tensor, "2 active"] | None = None
    """Token index (row 0) and latent index (row 1) of every non-zero latent of the scored tokens,
    int64, in no particular order; None unless requested."""


class _ChunkOutput(NamedTuple):
    """Part of a `SparseForward` for one chunk of tokens."""

    decoded: Tensor
    """Output of the decoder without its bias, still normalised, [tokens, d_out]."""
    l0: Tensor
    sums: Mapping[str, Tensor]
    pairs: Tensor | None
    """Pairs with token indices that count from the start of the chunk."""


@torch.no_grad()
def sparse_forward(
    sae: SAE,
    x: Float[Tensor, "tokens d_in"],
    *,
    scored: Bool[Tensor, " tokens"] | None = None,
    terms: Mapping[str, Term] = MappingProxyType({}),
    elements: int = _ELEMENTS,
    gather_up_to: float = _GATHER_UP_TO,
    pairs: bool = False,
) -> SparseForward:
    """Compute reconstructions, L0, firings and sums over latents, equal to those of ``sae(x)``.

    Args:
        sae: SAE on the device of ``x``.
        x: Activations. Pass several hundred tokens or more: the weights are read once per chunk.
        scored: Tokens whose active latents count as firings and pairs; by default all. The other
            outputs cover all tokens.
        terms: Name → function of the latents that is summed over the latents of each token.
        elements: Maximum number of pre-activations, and of latents, that exist at once; one token
            at a time is the minimum.
        gather_up_to: Share of active latents up to which decoder rows are gathered. Above it, and
            where gathering would not be exact, the latents are multiplied by the whole decoder.
        pairs: Whether to return which latents are active on which token.
    """
    forward = _chunk_forward(sae, gather_up_to, terms, pairs=pairs)
    x = x.to(sae.W_enc.dtype)
    step = min(max(1, elements // sae.d_sae), len(x))
    buffer = x.new_empty(step, sae.d_sae)  # pre-activations of one chunk after the other
    is_scored = x.new_ones(len(x), dtype=torch.bool) if scored is None else scored
    output = SparseForward(
        x.new_empty(len(x), sae.d_out),
        x.new_empty(len(x), dtype=torch.int64),
        x.new_zeros(sae.d_sae, dtype=torch.int64),
        {name: x.new_empty(len(x), dtype=forward.sum_dtype) for name in terms},
    )
    chunk_pairs: list[Tensor] = []
    # Without any token `step` is 0, which `range` refuses.
    for start in range(0, len(x), step or 1):
        rows = slice(start, start + step)
        normalised = sae.normalise(x[rows])
        q = sae.pre_activations(normalised.value, out=buffer[: len(x[rows])])
        run = forward.with_selected if forward.selects else forward.with_all
        chunk = run(q, is_scored[rows], output.firings)
        output.reconstruction[rows] = sae.finish(chunk.decoded + sae.b_dec, x[rows], normalised)
        output.l0[rows] = chunk.l0
        for name, sums in chunk.sums.items():
            output.sums[name][rows] = sums
        if chunk.pairs is not None:
            chunk_pairs.append(_shift_tokens(chunk.pairs, start))
    return output._replace(pairs=torch.cat(chunk_pairs, dim=1)) if chunk_pairs else output


def _shift_tokens(pairs: Tensor, offset: int) -> Int[Tensor, "2 active"]:
    """Return pairs with ``offset`` added to their token indices."""
    return pairs + pairs.new_tensor([[offset], [0]])


def _chunk_forward(
    sae: SAE, gather_up_to: float, terms: Mapping[str, Term], *, pairs: bool
) -> _ChunkForward:
    """Return what runs a chunk of tokens, with the decoder norms computed once for all chunks."""
    norms = sae.decoder_norms()
    # Gathering skips the rows of inactive latents, but 0·NaN and 0·inf are NaN: with a row, scale
    # or divisor like that, only the dense product gives the same NaNs as `sae(x)`.
    is_exact = norms.isfinite()
    if sae.rescale_by_decoder_norm != "none":
        is_exact &= norms > 0
    if sae.latent_scale is not None:
        is_exact &= sae.latent_scale.isfinite()
    # On other devices, and for rows that are not contiguous, the dense product is used.
    can_gather = sae.device.type in ("cpu", "cuda") and sae.W_dec.stride(-1) == 1
    return _ChunkForward(
        sae,
        norms,
        gather_up_to if can_gather and bool(is_exact.all()) else -1.0,
        terms,
        sum_dtype=torch.float32 if sae.device.type == "mps" else torch.float64,
        pairs=pairs,
    )


@dataclass(frozen=True, eq=False)
class _ChunkForward:
    """Computes the `_ChunkOutput` of pre-activations."""

    sae: SAE
    norms: Float[Tensor, " d_sae"]
    """L2 norm of each decoder row."""
    gather_up_to: float
    """Share of active latents up to which rows are gathered; −1 where that is never exact."""
    terms: Mapping[str, Term]
    sum_dtype: torch.dtype
    """Dtype that terms are summed in."""
    pairs: bool

    @property
    def selects(self) -> bool:
        """True if the activation function selects the few latents that can be active."""
        activation = self.sae.activation
        return (
            isinstance(activation, Selecting) and activation.k <= self.gather_up_to * self.sae.d_sae
        )

    def with_selected(self, q: Tensor, is_scored: Tensor, firings: Tensor) -> _ChunkOutput:
        """Run a chunk with the selected latents only; requires `selects`.

        Args:
            q: Pre-activations [tokens, d_sae].
            is_scored: Tokens that count as firings and pairs [tokens].
            firings: Firings of earlier chunks [d_sae]; those of this one are added in place.
        """
        selections = [self._select(block) for block in self._token_blocks(q)]
        values = torch.cat([selection.values for selection in selections])  # [tokens, k]
        indices = torch.cat([selection.indices for selection in selections])
        if self.sae.rescale_by_decoder_norm == "selection":
            values = values / self.norms[indices]
        is_active = values != 0  # [tokens, k]
        fires = is_active & is_scored[:, None]
        firings.index_add_(0, indices.flatten(), fires.flatten().long())
        # Both are row by row.
        pairs = torch.stack([fires.nonzero()[:, 0], indices[fires]]) if self.pairs else None
        # Σ value · decoder row of each token, without a tensor [tokens, k, d_out].
        decoded = embedding_bag(
            indices,
            self.sae.W_dec,
            mode="sum",
            per_sample_weights=self._row_factors(values, indices),
        )
        return _ChunkOutput(decoded, is_active.sum(dim=-1), self._sums([values]), pairs)

    def with_all(self, q: Tensor, is_scored: Tensor, firings: Tensor) -> _ChunkOutput:
        """Run a chunk with all latents, for any activation function.

        Args:
            q: Pre-activations [tokens, d_sae], which are overwritten by the latents.
            is_scored: As in `with_selected`.
            firings: As in `with_selected`.
        """
        l0 = torch.empty(len(q), dtype=torch.int64, device=q.device)
        blocks = self._token_blocks(q)
        block_l0s = torch.split(l0, len(blocks[0]))
        # As floats: the firings of a block are then one matrix product.
        block_weights = torch.split(is_scored.to(q.dtype), len(blocks[0]))
        block_pairs: list[Tensor] = []
        for block, block_l0, weight in zip(blocks, block_l0s, block_weights, strict=True):
            latents = self.sae.latents(block, self.norms)
            block.copy_(latents)
            is_active = latents.ne_(0)  # floats: their products are fast, and exact up to 2**24
            block_l0.copy_(is_active.sum(dim=-1))
            # [block] @ [block, d_sae]
            firings += (weight @ is_active).long()
            if self.pairs:
                fires = (is_active * weight[:, None]).nonzero().T  # [2, active]
                block_pairs.append(_shift_tokens(fires, len(blocks[0]) * len(block_pairs)))
        pairs = torch.cat(block_pairs, dim=1) if block_pairs else None
        if int(l0.sum()) <= self.gather_up_to * q.numel():
            return self._gather(q, l0)._replace(pairs=pairs)
        sums = self._sums(blocks)  # before the latents are rescaled for the decoder
        if self.sae.rescale_by_decoder_norm == "latents":
            q.div_(self.norms)
        if self.sae.latent_scale is not None:
            q.mul_(self.sae.latent_scale)
        return _ChunkOutput(q @ self.sae.W_dec, l0, sums, pairs)

    def _gather(self, latents: Tensor, l0: Tensor) -> _ChunkOutput:
        """Decode latents [tokens, d_sae] by the decoder rows of the active ones."""
        # `unsafe` below: l0 adds up to the number of values, so torch need not check it.
        token, indices = latents.nonzero(as_tuple=True)  # ordered by token, l0 of them for each
        values = latents[token, indices]
        sums = {
            name: torch.segment_reduce(
                term(values).to(self.sum_dtype), "sum", lengths=l0, unsafe=True
            )
            for name, term in self.terms.items()
        }
        decoded = embedding_bag(
            indices,
            self.sae.W_dec,
            offsets=l0.cumsum(0) - l0,  # where the latents of each token start
            mode="sum",
            per_sample_weights=self._row_factors(values, indices),
        )
        return _ChunkOutput(decoded, l0, sums, None)

    def _sums(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Sum the terms over the latents of each token, for blocks [tokens, latents]."""
        return {
            name: torch.cat([term(block).sum(dim=-1, dtype=self.sum_dtype) for block in blocks])
            for name, term in self.terms.items()
        }

    def _select(self, q: Tensor) -> SelectedLatents:
        assert isinstance(self.sae.activation, Selecting)
        rescaled = self.sae.rescale_by_decoder_norm != "none"
        return self.sae.activation.select(q * self.norms if rescaled else q)

    def _row_factors(self, values: Tensor, indices: Tensor) -> Tensor:
        """Return the factors of the decoder rows ``indices``, as in `SAE.decode`."""
        if self.sae.rescale_by_decoder_norm == "latents":
            values = values / self.norms[indices]
        if self.sae.latent_scale is not None:
            values = values * self.sae.latent_scale[indices]
        return values

    def _token_blocks(self, chunk: Tensor) -> tuple[Tensor, ...]:
        """Split a chunk [tokens, d_sae] into blocks of `_BLOCK` latents, on CPUs only."""
        rows = _BLOCK // self.sae.d_sae if chunk.device.type == "cpu" else len(chunk)
        return torch.split(chunk, max(1, rows))
