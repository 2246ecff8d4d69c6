"""Compute losses from final hidden states, by unembedding chunks of tokens.

Logits [batch, pos, vocab] never exist at once: the memory in use is a constant times `_ELEMENTS`.
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

# Elements of one logits tensor; about eight exist at once. Larger ones do not fit a CPU's cache.
_ELEMENTS = 2**22
# With fewer tokens in a chunk, reading the unembedding matrix costs more than multiplying by it.
_MIN_TOKENS = 64


class FinalStates(NamedTuple):
    """Final hidden states of a clean run, from which its logits are computed again."""

    hidden: Float[Tensor, "tokens d_model"]

    def part(self, tokens: slice) -> FinalStates:
        """Return the final hidden states of some tokens."""
        return FinalStates(self.hidden[tokens])

    def losses(self, unembedding: Unembedding, replaced: ReplacedRuns, target: Tensor) -> Losses:
        """Return the losses of few tokens, as the function `losses` does."""
        # [tokens, vocab]
        log_p = formulas.log_probs(unembedding.logits(self.hidden))

        def values(run: ModelRun, log_q: Tensor) -> Values:
            predictions = Predictions(log_p, log_q, target.to(log_q.device))
            return {name: loss(predictions) for name, loss in LOSSES[run].items()}

        return Losses(
            values("clean run", log_p),
            [values(run, formulas.log_probs(unembedding.logits(final))) for run, final in replaced],
        )


class CleanSummary(NamedTuple):
    """Numbers of a clean run that suffice for KL and cross-entropy, where logits are W·h + b.

    With P the clean distribution of a token and ē = Σ_v P(v)·W_v,

        KL(P‖Q) = (log Z_q − ē·h_q) − (log Z_p − ē·h_p)

    for any run Q with final hidden state h_q; the term Σ_v P(v)·b_v cancels.
    """

    mean_row: Float[Tensor, "tokens d_model"]
    """Mean row ē of the unembedding matrix under P."""
    offset: Float[Tensor, " tokens"]
    """Difference log Z_p − ē·h_p, float64."""
    cross_entropy: Float[Tensor, " tokens"]
    """Cross-entropy of the clean run, float64."""
    entropy: Float[Tensor, " tokens"]
    """Entropy of the clean run, float64."""

    def part(self, tokens: slice) -> CleanSummary:
        """Return the summary of some tokens."""
        return CleanSummary(*(value[tokens] for value in self))

    def losses(self, unembedding: Unembedding, replaced: ReplacedRuns, target: Tensor) -> Losses:
        """Return the losses of few tokens, as the function `losses` does."""

        def values(run: ModelRun, final: Tensor) -> Values:
            numbers = _replaced_run(unembedding, final, target)
            formulas_of_run = LOSSES[run].items()
            return {name: _REPLACED_LOSSES[loss](self, numbers) for name, loss in formulas_of_run}

        return Losses(
            {name: _CLEAN_LOSSES[loss](self) for name, loss in LOSSES["clean run"].items()},
            [values(run, final) for run, final in replaced],
        )


Clean = FinalStates | CleanSummary
ReplacedRuns = Sequence[tuple[ModelRun, Float[Tensor, "tokens d_model"]]]
"""Kind and final hidden states of runs with the activation replaced."""
Values = Mapping[str, Float[Tensor, " tokens"]]
"""Column → one value per token."""


class Losses(NamedTuple):
    """Loss columns of several runs on the same tokens."""

    clean: Values
    replaced: list[Values]
    """Columns of each run with the activation replaced."""


class _ReplacedRun(NamedTuple):
    """Numbers of a run with the activation replaced, without its log-probabilities."""

    final: Float[Tensor, "tokens d_model"]
    log_z: Float[Tensor, " tokens"]
    cross_entropy: Float[Tensor, " tokens"]


def _kl_from_summary(clean: CleanSummary, replaced: _ReplacedRun) -> Float[Tensor, " tokens"]:
    product = _exact_dot(clean.mean_row, replaced.final).to(replaced.log_z)
    # Rounding could leave KL of two equal distributions slightly below zero.
    return (replaced.log_z - product - clean.offset.to(replaced.log_z)).clamp_min(0)


_CLEAN_LOSSES: Mapping[Loss, Callable[[CleanSummary], Tensor]] = {
    formulas.cross_entropy_of: lambda clean: clean.cross_entropy,
    formulas.entropy_of: lambda clean: clean.entropy,
}
_REPLACED_LOSSES: Mapping[Loss, Callable[[CleanSummary, _ReplacedRun], Tensor]] = {
    formulas.kl_of: _kl_from_summary,
    formulas.cross_entropy_of: lambda clean, replaced: replaced.cross_entropy,
}


def summary_suffices() -> bool:
    """Return True if every loss can be computed from a `CleanSummary` instead of `FinalStates`.

    A loss that cannot needs the clean log-probabilities, for its formula in `token_metrics`.
    """
    return all(
        loss in (_CLEAN_LOSSES if run == "clean run" else _REPLACED_LOSSES)
        for run, losses in LOSSES.items()
        for loss in losses.values()
    )


@torch.inference_mode()
def summarise(
    unembedding: Unembedding, final: Float[Tensor, "tokens d_model"], target: Int[Tensor, " tokens"]
) -> CleanSummary:
    """Summarise a clean run, at the cost of two unembeddings.

    Args:
        unembedding: Linear unembedding.
        final: Final hidden states.
        target: Next tokens of the text.
    """
    parts = []
    for part in _chunks(len(final), unembedding):
        logits = unembedding.logits(final[part])  # [tokens, vocab]
        # log Σ eˣ = m + log Σ eˣ⁻ᵐ with the largest logit m, so that no exponential overflows.
        largest = logits.amax(dim=-1, keepdim=True)
        # Read before `sub_` overwrites the logits; log Z is added below.
        cross_entropy = -_target_logits(logits, target[part])
        weights = logits.sub_(largest).exp_()  # in place, since this is the largest tensor
        total = weights.sum(dim=-1, keepdim=True)
        log_z = (_exact(largest) + _exact(total).log()).squeeze(-1)
        mean_row = (weights @ unembedding.weight) / total  # [tokens, d_model]
        offset = log_z - _exact_dot(mean_row, final[part])
        # −Σ P·log P = log Z − Σ P·logit, and logit_v = W_v·h + b_v.
        entropy = offset - _exact(weights @ unembedding.bias) / _exact(total).squeeze(-1)
        parts.append(CleanSummary(mean_row, offset, cross_entropy + log_z, entropy))
    return CleanSummary(*(torch.cat(values) for values in zip(*parts, strict=True)))


@torch.inference_mode()
def losses(
    unembedding: Unembedding,
    clean: Clean,
    replaced: ReplacedRuns,
    target: Int[Tensor, " tokens"],
) -> Losses:
    """Compute the loss columns of the clean run and of runs with the activation replaced.

    Each run costs one unembedding; a clean run given as a `CleanSummary` costs none.

    Args:
        unembedding: Unembedding of the model.
        clean: Predictions of the clean run.
        replaced: Kind and final hidden states of each run with the activation replaced.
        target: Next tokens of the text.
    """
    parts = []
    for chunk in _chunks(len(target), unembedding):
        finals = [(run, final[chunk]) for run, final in replaced]
        parts.append(clean.part(chunk).losses(unembedding, finals, target[chunk]))
    return Losses(
        _concatenate([part.clean for part in parts]),
        [_concatenate(chunks) for chunks in zip(*(part.replaced for part in parts), strict=True)],
    )


def _concatenate(chunks: Sequence[Values]) -> Values:
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _replaced_run(unembedding: Unembedding, final: Tensor, target: Tensor) -> _ReplacedRun:
    logits = unembedding.logits(final)  # [tokens, vocab]
    # Read before `sub_` overwrites the logits; log Z is added below.
    cross_entropy = -_target_logits(logits, target)
    largest = logits.amax(dim=-1, keepdim=True)
    # In place, since this is the largest tensor.
    total = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
    log_z = (_exact(largest) + _exact(total).log()).squeeze(-1)
    return _ReplacedRun(final, log_z, cross_entropy + log_z)


@torch.inference_mode()
def cross_entropy(
    unembedding: Unembedding, final: Float[Tensor, "tokens d_model"], target: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Return −log Q(next token of the text) of each final hidden state, in nats."""
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
    """Compute `cross_entropy` where all sequences share one final hidden state per position."""
    parts = []
    for part in _chunks(len(final), unembedding):
        log_q = formulas.log_probs(unembedding.logits(final[part]))
        parts.append(-log_q.gather(1, target[:, part].T.to(log_q.device)).T)  # [sequences, part]
    return torch.cat(parts, dim=1)


def _target_logits(logits: Tensor, target: Tensor) -> Float[Tensor, " tokens"]:
    return _exact(logits.gather(1, target.to(logits.device).unsqueeze(-1)).squeeze(-1))


def _exact_dot(mean_row: Tensor, final: Tensor) -> Float[Tensor, " tokens"]:
    """Return ē·h in float64: the two halves of KL nearly cancel, so float32 would be too coarse."""
    return (_exact(mean_row) * _exact(final.to(mean_row.device))).sum(dim=-1)


def _exact(value: Tensor) -> Tensor:
    return value if value.device.type == "mps" else value.double()  # MPS has no float64


def _chunks(tokens: int, unembedding: Unembedding) -> list[slice]:
    step = max(_MIN_TOKENS, _ELEMENTS // unembedding.vocabulary_size)
    # One chunk even for no tokens, so that `torch.cat` has an empty tensor of each column.
    return [slice(start, start + step) for start in range(0, max(tokens, 1), step)]
