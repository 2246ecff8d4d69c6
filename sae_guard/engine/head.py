"""From final hidden states to losses: the unembedding, in chunks of tokens.

[batch, pos, vocab] never exists: what is alive at once is a constant times `_ELEMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.engine import token_metrics as formulas
from sae_guard.engine.token_metrics import LOSSES, Loss, ModelRun, Predictions
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


Values = Mapping[str, Float[Tensor, " tokens"]]
"""Column → its values."""


class Losses(NamedTuple):
    """Columns of runs on the same tokens."""

    clean: Values
    others: list[Values]
    """Of each other run."""


class _Scores(NamedTuple):
    """What a run with the activation replaced gives without log-probabilities of all tokens."""

    final: Float[Tensor, "tokens d_model"]
    log_z: Float[Tensor, " tokens"]
    cross_entropy: Float[Tensor, " tokens"]


def _kl_by_summary(clean: Summary, scores: _Scores) -> Float[Tensor, " tokens"]:
    along = _along(clean.row, scores.final).to(scores.log_z)
    # Of two equal distributions rounding leaves what may be below zero.
    return (scores.log_z - along - clean.offset.to(scores.log_z)).clamp_min(0)


_OF_SUMMARY: Mapping[Loss, Callable[[Summary], Tensor]] = {
    formulas.cross_entropy_of: lambda clean: clean.cross_entropy,
    formulas.entropy_of: lambda clean: clean.entropy,
}
_BESIDE_SUMMARY: Mapping[Loss, Callable[[Summary, _Scores], Tensor]] = {
    formulas.kl_of: _kl_by_summary,
    formulas.cross_entropy_of: lambda clean, scores: scores.cross_entropy,
}


def summary_suffices() -> bool:
    """Say whether every loss has a formula over a `Summary`, which then replaces a clean `Final`.

    A loss without one needs the clean log-probabilities: its formula in `token_metrics` will do.
    """
    return all(
        loss in (_OF_SUMMARY if run == "clean run" else _BESIDE_SUMMARY)
        for run, losses in LOSSES.items()
        for loss in losses.values()
    )


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
    others: Sequence[tuple[ModelRun, Float[Tensor, "tokens d_model"]]],
    target: Int[Tensor, " tokens"],
) -> Losses:
    """Compute the columns of the clean run, and of runs with the activation replaced.

    Args:
        unembedding: Final hidden states → logits.
        clean: The clean run; with its `Summary`, each other run costs one unembedding, with its
            `Final` there is one more for all of them together.
        others: What the others are, and their final hidden states.
        target: The actual next tokens.
    """
    parts = []
    for at in _chunks(len(target), unembedding):
        some, finals = clean.part(at), [(run, final[at]) for run, final in others]
        if isinstance(some, Summary):
            parts.append(_beside_summary(unembedding, some, finals, target[at]))
        else:
            parts.append(_beside_final(unembedding, some, finals, target[at]))
    return Losses(
        _joined([part.clean for part in parts]),
        [_joined(chunks) for chunks in zip(*(part.others for part in parts), strict=True)],
    )


def _joined(chunks: Sequence[Values]) -> Values:
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _beside_final(
    unembedding: Unembedding,
    clean: Final,
    others: Sequence[tuple[ModelRun, Tensor]],
    target: Tensor,
) -> Losses:
    log_p = formulas.log_probs(unembedding.logits(clean.hidden))

    def values(run: ModelRun, log_q: Tensor) -> Values:
        predictions = Predictions(log_p, log_q, target.to(log_q.device))
        return {name: loss(predictions) for name, loss in LOSSES[run].items()}

    return Losses(
        values("clean run", log_p),
        [values(run, formulas.log_probs(unembedding.logits(final))) for run, final in others],
    )


def _beside_summary(
    unembedding: Unembedding,
    clean: Summary,
    others: Sequence[tuple[ModelRun, Tensor]],
    target: Tensor,
) -> Losses:
    def values(run: ModelRun, final: Tensor) -> Values:
        scores = _scores(unembedding, final, target)
        return {name: _BESIDE_SUMMARY[loss](clean, scores) for name, loss in LOSSES[run].items()}

    return Losses(
        {name: _OF_SUMMARY[loss](clean) for name, loss in LOSSES["clean run"].items()},
        [values(run, final) for run, final in others],
    )


def _scores(unembedding: Unembedding, final: Tensor, target: Tensor) -> _Scores:
    logits = unembedding.logits(final)
    cross_entropy = -_at(logits, target)
    largest = logits.amax(dim=-1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)  # in place: no tensor is larger
    log_z = (_exact(largest) + _exact(total).log()).squeeze(-1)
    return _Scores(final, log_z, cross_entropy + log_z)


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
