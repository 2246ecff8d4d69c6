"""The two paths over the whole corpus: the fast one, once it is proved, and the plain one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple, TextIO

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import plain
from sae_guard.engine.batches import batches, in_halves, shard_size, with_bar
from sae_guard.engine.fast import Run
from sae_guard.engine.intervention import Place
from sae_guard.engine.sweep import Sweep
from sae_guard.errors import InfrastructureError, SetupError
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE

_OF_OTHER_MODELS = (SetupError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
"""What a model that is built otherwise raises where blocks are taken out of it."""


class Found(NamedTuple):
    """What a path over the whole corpus found."""

    sums: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]
    firings: Tensor
    mean: Float[Tensor, " d_out"] | None
    """None where it was not asked for."""
    paths: dict[str, str]
    """Which path was taken for what, and why not a faster one."""
    spread: Tensor | None = None
    """Of firings, as `Run.spread`."""
    sq_deviation: float | None = None
    """Σ‖y − μ‖² of the whole corpus, where only some rows were measured."""


class Batches:
    """The batches of the corpus, with a bar each time they are run through."""

    def __init__(self, corpus: Corpus, size: int, name: str, progress: TextIO | None) -> None:
        n, context = corpus.tokens.shape
        self.slices = batches(0, n, size, shard_size(context))
        self._name = name
        self._progress = progress

    def __iter__(self) -> Iterator[slice]:
        return with_bar(self.slices, self._name, self._progress)


def take_fast(
    sweep: Sweep, corpus: Corpus, size: int, progress: TextIO | None
) -> list[Found | str]:
    """Of each run what the fast path found, or why it is not to be taken."""
    runs, given_up = list(sweep.runs), dict[Run, str]()
    bars = Batches(corpus, size, ", ".join(dict.fromkeys(run.at.read for run in runs)), progress)
    with ExitStack() as locks:
        for name in sorted(set(sweep.names.values())):
            locks.enter_context(sweep.memory.lock(name))
        sweep.restore()
        proved = False
        for rows in bars:
            if sweep.done(rows):
                continue
            if proved:
                in_halves(sweep.batch, rows)
            else:
                proved, given_up = run_and_prove(sweep, corpus, rows)
                if len(given_up) == len(runs):
                    return [given_up[run] for run in runs]
            if proved:
                sweep.save()
        sweep.finish(bars.slices)
    return [given_up[run] if run in given_up else found_by(sweep, run) for run in runs]


def run_and_prove(sweep: Sweep, corpus: Corpus, rows: slice) -> tuple[bool, dict[Run, str]]:
    """Run one of the first batches; whether it proves the runs, and which are given up and why.

    A batch without a scored token proves nothing. In a model that is built otherwise than the
    suffix takes it for, all are given up.
    """
    runs = list(sweep.runs)
    try:
        in_halves(sweep.batch, rows)
        if not bool(corpus.scored[rows].any()):
            return False, {}
        return True, sweep.prove(rows)
    except _OF_OTHER_MODELS as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return False, dict.fromkeys(runs, reason)


def found_by(sweep: Sweep, run: Run) -> Found:
    """What the fast path has found for a run."""
    ablated = sweep.ablated(run)
    paths = {
        "forward": f"from block {run.suffix.block} on",
        "ablations": ablated.path,
        "clean run": sweep.bases.path,
    }
    sums, tokens = {**run.sums, **ablated.sums}, {**run.tokens, **ablated.tokens}
    return Found(sums, tokens, run.firings, ablated.mean, paths, run.spread)


def take_plain(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    batches: Batches,
    *,
    because: str,
    random_error: bool = False,
) -> Found:
    """What the plain path finds, and why it is taken."""
    try:
        mean = plain.mean_activation(model, sae, corpus, at, batches)
        found = [
            plain.batch(model, sae, corpus, at, rows, mean, random_error=random_error)
            for rows in batches
        ]
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(f"out of memory: {error}") from error
    sums, tokens = (
        {name: torch.cat([columns[name] for columns in each]) for name in each[0]}
        for each in ([part.sums for part in found], [part.tokens for part in found])
    )
    firings = torch.stack([part.firings.sum(dim=0) for part in found]).sum(dim=0)
    return Found(sums, tokens, firings, mean, {"forward": "whole model", "because": because})
