"""From final hidden states to losses: the unembedding, in chunks of tokens.

[batch, pos, vocab] never exists: what is alive at once is a constant times `_ELEMENTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.engine import token_metrics as formulas
from sae_guard.model import Unembedding

# Of one logits tensor, of which about eight are alive at once; larger ones fall out of caches.
_ELEMENTS = 2**22
# With fewer, reading the unembedding matrix costs more than multiplying by it.
_LEAST_TOKENS = 64


class Final(NamedTuple):
    """The clean run by its final hidden states: its logits are computed once more."""

    hidden: Float[Tensor, "tokens d_model"]

    def part(self, at: slice) -> Final:
        """Of these tokens."""
        return Final(self.hidden[at])


class Summary(NamedTuple):
    """The clean run by what KL and cross-entropy need of it, where logits are W·h + b.

    With P the clean distribution of a token and ē = Σ_v P(v)·W_v,

        KL(P‖Q) = (log Z_q − ē·h_q) − (log Z_p − ē·h_p)

    for any run Q with final hidden state h_q: Σ_v P(v)·b_v is in both halves.
    """

    row: Float[Tensor, "tokens d_model"]
    """ē."""
    offset: Float[Tensor, " tokens"]
    """log Z_p − ē·h_p, float64."""
    cross_entropy: Float[Tensor, " tokens"]
    entropy: Float[Tensor, " tokens"]
    """Both of the clean run, float64."""

    def part(self, at: slice) -> Summary:
        """Of these tokens."""
        return Summary(*(value[at] for value in self))


Clean = Final | Summary


class Losses(NamedTuple):
    """Per token, in nats."""

    clean: Float[Tensor, " tokens"]
    """Cross-entropy of the clean run."""
    entropy: Float[Tensor, " tokens"]
    """Of its prediction."""
    others: list[tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]]
    """Of each other run, KL(clean‖other) and cross-entropy."""


@torch.inference_mode()
def summarise(
    unembedding: Unembedding,
    final: Float[Tensor, "tokens d_model"],
    target: Int[Tensor, " tokens"],
) -> Summary:
    """The summary of a clean run; costs two unembeddings.

    Args:
        unembedding: A linear one.
        final: Final hidden states.
        target: The actual next tokens.
    """
    parts = []
    for part in _chunks(len(final), unembedding):
        logits = unembedding.logits(final[part])
        largest = logits.amax(dim=-1, keepdim=True)
        cross_entropy = -_at(logits, target[part])
        weights = logits.sub_(largest).exp_()  # in place: no tensor is larger
        total = weights.sum(dim=-1, keepdim=True)
        log_z = (_exact(largest) + _exact(total).log()).squeeze(-1)
        row = (weights @ unembedding.weight) / total
        offset = log_z - _along(row, final[part])
        entropy = offset - _exact(weights @ unembedding.bias) / _exact(total).squeeze(-1)
        parts.append(Summary(row, offset, cross_entropy + log_z, entropy))
    return Summary(*(torch.cat(values) for values in zip(*parts, strict=True)))


@torch.inference_mode()
def losses(
    unembedding: Unembedding,
    clean: Clean,
    others: Sequence[Float[Tensor, "tokens d_model"]],
    target: Int[Tensor, " tokens"],
) -> Losses:
    """KL and cross-entropy of runs with the activation replaced, beside the clean run.

    Args:
        unembedding: Final hidden states → logits.
        clean: The clean run; with its `Summary`, each other run costs one unembedding, with its
            `Final` there is one more for all of them together.
        others: Final hidden states of the others.
        target: The actual next tokens.
    """
    parts = []
    for at in _chunks(len(target), unembedding):
        some, finals = clean.part(at), [final[at] for final in others]
        if isinstance(some, Summary):
            parts.append(_beside_summary(unembedding, some, finals, target[at]))
        else:
            parts.append(_beside_final(unembedding, some, finals, target[at]))
    return Losses(
        torch.cat([part.clean for part in parts]),
        torch.cat([part.entropy for part in parts]),
        [
            (torch.cat([kl for kl, _ in pairs]), torch.cat([ce for _, ce in pairs]))
            for pairs in zip(*(part.others for part in parts), strict=True)
        ],
    )


def _beside_final(
    unembedding: Unembedding, clean: Final, others: Sequence[Tensor], target: Tensor
) -> Losses:
    log_p = formulas.log_probs(unembedding.logits(clean.hidden))
    pairs = []
    for final in others:
        log_q = formulas.log_probs(unembedding.logits(final))
        kl = formulas.kl_divergence(log_p, log_q)
        pairs.append((kl, formulas.cross_entropy(log_q, target.to(log_q.device))))
    cross_entropy = formulas.cross_entropy(log_p, target.to(log_p.device))
    return Losses(cross_entropy, formulas.entropy(log_p), pairs)


def _beside_summary(
    unembedding: Unembedding, clean: Summary, others: Sequence[Tensor], target: Tensor
) -> Losses:
    pairs = []
    for final in others:
        logits = unembedding.logits(final)
        cross_entropy = -_at(logits, target)
        largest = logits.amax(dim=-1, keepdim=True)
        total = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
        log_z = (_exact(largest) + _exact(total).log()).squeeze(-1)
        kl = log_z - _along(clean.row, final).to(log_z) - clean.offset.to(log_z)
        # Of two equal distributions rounding leaves what may be below zero.
        pairs.append((kl.clamp_min(0), cross_entropy + log_z))
    return Losses(clean.cross_entropy, clean.entropy, pairs)


@torch.inference_mode()
def cross_entropy(
    unembedding: Unembedding,
    final: Float[Tensor, "tokens d_model"],
    target: Int[Tensor, " tokens"],
) -> Float[Tensor, " tokens"]:
    """−log Q(actual next token) of each final hidden state, in nats."""
    parts = []
    for part in _chunks(len(target), unembedding):
        log_q = formulas.log_probs(unembedding.logits(final[part]))
        parts.append(formulas.cross_entropy(log_q, target[part].to(log_q.device)))
    return torch.cat(parts)


@torch.inference_mode()
def shared_cross_entropy(
    unembedding: Unembedding,
    final: Float[Tensor, "pos d_model"],
    target: Int[Tensor, "sequences pos"],
) -> Float[Tensor, "sequences pos"]:
    """The same where one final hidden state per position serves all sequences."""
    parts = []
    for part in _chunks(len(final), unembedding):
        log_q = formulas.log_probs(unembedding.logits(final[part]))
        parts.append(-log_q.gather(1, target[:, part].T.to(log_q.device)).T)
    return torch.cat(parts, dim=1)


def _at(logits: Tensor, target: Tensor) -> Float[Tensor, " tokens"]:
    return _exact(logits.gather(1, target.to(logits.device).unsqueeze(-1)).squeeze(-1))


def _along(row: Tensor, final: Tensor) -> Float[Tensor, " tokens"]:
    """ē·h; the halves of KL nearly cancel, so that these products must not be rounded."""
    return (_exact(row) * _exact(final.to(row.device))).sum(dim=-1)


def _exact(value: Tensor) -> Tensor:
    return value if value.device.type == "mps" else value.double()  # MPS has no float64


def _chunks(tokens: int, unembedding: Unembedding) -> list[slice]:
    step = max(_LEAST_TOKENS, _ELEMENTS // unembedding.vocabulary_size)
    return [slice(at, at + step) for at in range(0, max(tokens, 1), step)]
