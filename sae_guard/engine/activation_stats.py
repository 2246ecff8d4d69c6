"""Mean and a sample of the clean activations at one hook point, for building control SAEs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine.ablation import moments
from sae_guard.engine.batch_size import default_batch_size
from sae_guard.engine.batches import batches, halve_on_oom, shard_size
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.memory import Memory
from sae_guard.model import LanguageModel, Suffix


class ActivationStats(NamedTuple):
    """Statistics of the activations of a corpus's scored tokens at one hook point."""

    mean: Float[Tensor, " d_in"]
    """Mean activation μ, float64, on the CPU."""
    sample: Float[Tensor, "tokens d_in"]
    """Activations of the scored tokens of the first shard: 4,096 tokens at most, or one window."""


def activation_stats(
    model: LanguageModel,
    corpus: Corpus,
    hook: str,
    *,
    batch_size: int | None = None,
    cache: Cache | None = None,
) -> ActivationStats:
    """Compute the statistics of a hook point, from the cache or by one clean run of the corpus.

    Args:
        model: Language model.
        corpus: Windows whose scored tokens count.
        hook: Hook point whose activations are read.
        batch_size: Windows per forward pass, at most; None chooses by window length and free
            memory.
        cache: Cache that holds clean runs, or None.

    Raises:
        SetupError: The model has no such hook point.
        InfrastructureError: Out of memory.
    """
    model.check_hook(hook)
    n, context = corpus.tokens.shape
    shard, activations = shard_size(context), _activations(model, corpus, hook, cache)
    totals: list[Tensor] = []
    samples: list[Tensor] = []

    def add_batch(rows: slice) -> None:
        y, scored = activations(rows), corpus.scored[rows]
        total, _ = moments(y, scored[:, :-1])  # [batch, d_in]
        # Empty for the batches after the first shard.
        in_first_shard = slice(0, max(0, shard - rows.start))
        samples.append(y[in_first_shard][scored[in_first_shard].to(y.device)])
        totals.append(total.sum(dim=0))

    size = batch_size or default_batch_size(model, context, plain=False)
    for rows in batches(0, n, size, shard):
        halve_on_oom(add_batch, rows)
    mean = torch.stack(totals).sum(dim=0) / corpus.scored.sum()
    return ActivationStats(mean, torch.cat(samples))


def _activations(
    model: LanguageModel, corpus: Corpus, hook: str, cache: Cache | None
) -> Callable[[slice], Float[Tensor, "batch pos d_in"]]:
    """Return a function from a slice of windows to their activations.

    Where the hook point lies in a block, the function uses clean runs, from the cache if they are
    there. Otherwise it runs the whole model.
    """
    suffix = Suffix.from_hooks(model, hook)
    if suffix is None:
        return lambda rows: model.activations(corpus.tokens[rows], hook)[hook].flatten(2)
    clean_hook = suffix.clean_hook(hook)
    clean_runs = CleanRuns(model, corpus, Memory.from_cache(cache, model, corpus), [clean_hook])
    return lambda rows: clean_runs.for_rows(rows).activations[clean_hook]
