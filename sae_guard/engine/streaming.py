"""`measure_until`: shard after shard in a random order, until enough was seen.

Rows of a corpus that was built from text stand in the order of their hashes; the order of its
shards depends on the hashes of tokens and SAE. So the first shards are a random sample, the same
for everyone, and nobody can release an SAE for the rows that come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from sae_guard.cache import Cache
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import Corpus
from sae_guard.engine import plain
from sae_guard.engine.ablation import Centre
from sae_guard.engine.batch_size import windows
from sae_guard.engine.batches import batches, in_halves, shard_size, with_bar
from sae_guard.engine.fast import Run
from sae_guard.engine.measure import Patch, check_tokens, sources, tabled, with_excerpts
from sae_guard.engine.memory import Memory, contents, digest
from sae_guard.engine.paths import Batches, Found, found_by, run_and_prove
from sae_guard.engine.sweep import Sweep
from sae_guard.errors import InfrastructureError
from sae_guard.model import LanguageModel, Suffix
from sae_guard.sae import SAE

Look = Callable[[Measurement], bool]
"""What has been measured so far → whether that is enough."""


def measure_until(
    model: LanguageModel,
    patch: Patch,
    corpus: Corpus,
    look: Look,
    *,
    centred: bool,
    spread: bool = False,
    random_error: bool = False,
    batch_size: int | None = None,
    expect_clean_ce: tuple[float, float] | None = None,
    reference: bool = False,
    cache: Cache | None = None,
    also: Sequence[tuple[str, ...]] = (),
    progress: TextIO | None = None,
) -> Measurement:
    """Measure the windows, a shard at a time, until ``look`` has seen enough.

    What was measured whole before is given whole. Looks are taken after each shard, whatever the
    batches are, so that they do not depend on the machine.

    Args:
        model: As in `measure`, like all that is not named here.
        patch: The SAE and its hook points.
        corpus: Of windows in random order.
        look: Asked after each shard.
        centred: Whether the metrics about μ are asked for: clean runs of the whole corpus up to the
            hook point find it first. Otherwise their columns are NaN, unless all rows are measured.
        spread: Whether to keep how evenly latents fire on the sequences.
        random_error: As in `measure`.
        batch_size: As in `measure`.
        expect_clean_ce: As in `measure`; of some rows, a loss that is surely outside.
        reference: As in `measure`.
        cache: As in `measure`.
        also: As in `measure`.
        progress: As in `measure`.

    Raises:
        SaeGuardError: As `measure`.
    """
    at = patch.at
    for name in at.hooks:
        model.check_hook(name)
    check_tokens(model, corpus)
    order = shuffled(corpus, patch.sae)

    def shown(found: Found, rows: Sequence[slice]) -> Measurement:
        chosen = np.sort(np.concatenate([np.arange(part.start, part.stop) for part in rows]))
        return tabled(model, patch.sae, corpus, at, found, expect_clean_ce, chosen)

    suffix, context = None if reference else Suffix.of(model, *at.hooks), corpus.tokens.shape[1]
    because = "asked for" if reference else "the hook points are in no block"
    if suffix is not None:
        run = Run(suffix, patch.sae, corpus, at, random_error=random_error, spread=spread)
        memory = Memory.of(cache, model, corpus)
        sweep = Sweep(model, [run], corpus, memory, sources(model, also))
        size = batch_size or windows(model, context, plain=False)
        result = _fast(sweep, run, order, size, look, shown, progress, centred=centred)
        if not isinstance(result, str):
            return with_excerpts(result, corpus, model.tokenizer)
        because = result
    size = batch_size or windows(model, context, plain=True)
    parts = [batches(rows.start, rows.stop, size, shard_size(context)) for rows in order]
    bars = Batches(corpus, size, at.read, progress)
    try:
        mean = plain.mean_activation(model, patch.sae, corpus, at, bars)
        run_of = partial(
            plain.batch, model, patch.sae, corpus, at, mean=mean, random_error=random_error
        )
        found = Found({}, {}, torch.zeros(0), mean, {"forward": "whole model", "because": because})
        measured = _plain(run_of, found, corpus, parts, look, shown)
        return with_excerpts(measured, corpus, model.tokenizer)
    except torch.OutOfMemoryError as error:
        raise InfrastructureError(f"out of memory: {error}") from error


def shuffled(corpus: Corpus, sae: SAE) -> list[slice]:
    """The shards of the corpus in the order in which they are measured for this SAE."""
    n, context = corpus.tokens.shape
    size = shard_size(context)
    seed = f"{corpus.sha256}:{digest(contents(sae))}"

    def key(rows: slice) -> bytes:
        return hashlib.sha256(f"{seed}:{rows.start}".encode()).digest()

    return sorted(batches(0, n, size, size), key=key)


def _fast(
    sweep: Sweep,
    run: Run,
    order: Sequence[slice],
    size: int,
    look: Look,
    shown: Callable[[Found, Sequence[slice]], Measurement],
    progress: TextIO | None,
    *,
    centred: bool,
) -> Measurement | str:
    """What the fast path measures, or why it is not to be taken."""
    proved, beside = False, _Beside(run)
    with ExitStack() as locks:
        for name in sorted(set(sweep.names.values())):
            locks.enter_context(sweep.memory.lock(name))
        sweep.restore(lambda kept: _usable(kept, run, order))
        ablated, centre = sweep.ablated(run), None
        for index, shard in enumerate(with_bar(list(order), run.at.read, progress)):
            parts = batches(shard.start, shard.stop, size, sweep.bases.size)
            for rows in parts:
                if sweep.done(rows):
                    continue
                if proved:
                    in_halves(sweep.batch, rows)
                    continue
                proved, given_up = run_and_prove(sweep, run.corpus, rows)
                if given_up:
                    return given_up[run]
            if bool(run.done.all()):
                break
            if index == 0 and centred:
                centre = ablated.centre()
            for rows in parts:
                beside.take(rows, *ablated.part(rows, centre.mean if centre else None))
            sweep.save()
            measured = shown(beside.found(sweep, centre), order[: index + 1])
            if look(measured):
                sweep.save(now=True)
                return measured
        sweep.finish(batches(0, len(run.done), size, sweep.bases.size))
    return shown(found_by(sweep, run), order)


class _Beside:
    """What stands beside an SAE, of the windows so far."""

    def __init__(self, run: Run) -> None:
        self._run = run
        n, scored = len(run.done), run.corpus.scored[:, :-1]
        names = ("ce_zero", "ce_mean", "sq_deviation")
        self._sums = {name: torch.full((n,), torch.nan, dtype=torch.float64) for name in names}
        self._tokens = {name: torch.full(scored.shape, torch.nan) for name in names[:2]}

    def take(self, rows: slice, sums: dict[str, Tensor], tokens: dict[str, Tensor]) -> None:
        """Take the columns of some windows."""
        for columns, values in ((self._sums, sums), (self._tokens, tokens)):
            for name, column in columns.items():
                column[rows] = values[name]

    def found(self, sweep: Sweep, centre: Centre | None) -> Found:
        """All columns so far."""
        run = self._run
        return found_by(sweep, run)._replace(
            sums={**run.sums, **self._sums},
            tokens={**run.tokens, **self._tokens},
            mean=centre.mean if centre else None,
            sq_deviation=centre.sq_deviation if centre else None,
        )


def _usable(kept: Mapping[str, Tensor], run: Run, order: Sequence[slice]) -> bool:
    """Whether all rows are done, or just the first shards of the order, with all that is asked."""
    done = kept["done"]
    if bool(done.all()):
        return True
    if run.spread is not None and "spread" not in kept:
        return False
    whole = [bool(done[rows].all()) for rows in order]
    n = whole.index(False) if False in whole else len(whole)
    return int(done.sum()) == sum(len(done[rows]) for rows in order[:n])


def _plain(
    run: Callable[[slice], plain.Batch],
    found: Found,
    corpus: Corpus,
    shards: Sequence[Sequence[slice]],
    look: Look,
    shown: Callable[[Found, Sequence[slice]], Measurement],
) -> Measurement:
    """The same by runs of the whole model, each of a batch of a shard."""
    n, firings, spread = len(corpus.tokens), torch.zeros(()), torch.zeros(())
    sums: dict[str, Tensor] = {}
    tokens: dict[str, Tensor] = {}
    for index, shard in enumerate(shards):
        for rows in shard:
            part = run(rows)
            for columns, values in ((sums, part.sums), (tokens, part.tokens)):
                for name, value in values.items():
                    empty = value.new_full((n, *value.shape[1:]), torch.nan)
                    columns.setdefault(name, empty)[rows] = value
            c = part.firings.double()
            firings = firings + part.firings.sum(dim=0)
            spread = spread + torch.stack([c.square().sum(dim=0), part.sums["n_tokens"] @ c])
        so_far = found._replace(sums=sums, tokens=tokens, firings=firings.long(), spread=spread)
        seen = [rows for parts in shards[: index + 1] for rows in parts]
        measured = shown(so_far, seen)
        if look(measured):
            break
    return measured
