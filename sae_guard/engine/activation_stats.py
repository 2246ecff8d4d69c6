"""Activations of the clean model at one hook point: what the controls are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine.ablation import moments
from sae_guard.engine.batch_size import windows
from sae_guard.engine.batches import batches, in_halves, shard_size
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.memory import Memory
from sae_guard.model import LanguageModel, Suffix


class ActivationStats(NamedTuple):
    """Activations of the scored tokens of a corpus."""

    mean: Float[Tensor, " d_in"]
    """μ, float64, on the CPU."""
    some: Float[Tensor, "tokens d_in"]
    """Those of the first windows, some thousands where there are as many."""


def activation_stats(
    model: LanguageModel,
    corpus: Corpus,
    hook: str,
    *,
    batch_size: int | None = None,
    cache: Cache | None = None,
) -> ActivationStats:
    """Read the activations at a hook point: what is remembered of them, or one clean run.

    Raises:
        SetupError: The model has no such hook point.
        InfrastructureError: Out of memory.
    """
    model.check_hook(hook)
    n, context = corpus.tokens.shape
    first, activations = shard_size(context), _activations(model, corpus, hook, cache)
    totals: list[Tensor] = []
    some: list[Tensor] = []

    def add(rows: slice) -> None:
        y, scored = activations(rows), corpus.scored[rows]
        total, _ = moments(y, scored[:, :-1])
        head = slice(0, max(0, first - rows.start))
        some.append(y[head][scored[head].to(y.device)])
        totals.append(total.sum(dim=0))

    size = batch_size or windows(model, context, plain=False)
    for rows in batches(0, n, size, first):
        in_halves(add, rows)
    return ActivationStats(torch.stack(totals).sum(dim=0) / corpus.scored.sum(), torch.cat(some))


def _activations(
    model: LanguageModel, corpus: Corpus, hook: str, cache: Cache | None
) -> Callable[[slice], Float[Tensor, "batch pos d_in"]]:
    suffix = Suffix.of(model, hook)
    if suffix is None:
        return lambda rows: model.seen(corpus.tokens[rows], hook)[hook].flatten(2)
    source = suffix.source(hook)
    clean_runs = CleanRuns(
        model, model.unembedding, corpus, Memory.of(cache, model, corpus), [source]
    )
    return lambda rows: clean_runs.of(rows).activations[source]
