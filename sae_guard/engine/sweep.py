"""One sweep over the batches of a corpus, on either path: of all windows, or until it is enough.

A measurement goes through *stretches* of the corpus in an order, each in batches. A whole one has
one stretch, all windows as they stand. An early one goes shard after shard in a random order, and
asks after each whether it is enough. Rows of a corpus that was built from text stand in the order
of their hashes; the order of its shards depends on the hashes of tokens and SAE. So the first
shards are a random sample, the same for everyone, and nobody can release an SAE for the rows that
come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TextIO

from jaxtyping import Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine.batches import batches, shard_size, with_bar
from sae_guard.engine.memory import contents, digest
from sae_guard.sae import SAE


class PathResult(NamedTuple):
    """What a path has measured of an SAE by now; rows of windows that it has not run are void."""

    sums: Mapping[str, Tensor]
    """Column → float64, shape [n_sequences]."""
    tokens: Mapping[str, Tensor]
    """Column → float32, shape [n_sequences, pos - 1]."""
    firings: Tensor
    mean: Float[Tensor, " d_out"] | None
    """None where μ is not known."""
    paths: dict[str, str]
    """Which path was taken for what, and why not a faster one."""
    spread: Tensor | None = None
    """Of firings, as `SaeRun.spread`."""
    sq_deviation: float | None = None
    """Σ‖y − μ‖² of the whole corpus, where it is known although some rows are not."""


class SweepPath:
    """A way to run the windows of a corpus for SAEs; knows what it has measured of them."""

    hook: str
    """A name for the progress bar."""
    every_logit: bool
    """Whether all logits of a batch exist at once."""

    def locked(self) -> AbstractContextManager[object]:
        """Keep other processes from doing the same meanwhile."""
        return nullcontext()

    def begin(self, stretches: Sequence[slice], windows: Iterable[slice]) -> None:
        """Do what comes before the first batch.

        Args:
            stretches: As they will be run.
            windows: All batches of the corpus, for a pass of its own.
        """
        raise NotImplementedError

    def run(self, rows: slice) -> None:
        """Run a batch, unless it was run before."""
        raise NotImplementedError

    @property
    def given_up(self) -> bool:
        """Say whether the path is not to be taken for any of its SAEs."""
        return False

    @property
    def whole(self) -> bool:
        """Say whether no window is left to run."""
        raise NotImplementedError

    def complete(self, windows: Sequence[slice]) -> None:
        """Fill in the columns of batches that are left to the end where all windows are run."""

    def stop(self) -> None:
        """End the sweep before its end."""

    def finish(self, windows: Sequence[slice]) -> None:
        """Fill in, at the end, the columns of all batches."""

    def results(self) -> list[PathResult | str]:
        """Return of each SAE what is measured by now, or why the path is not to be taken."""
        raise NotImplementedError


def run(
    path: SweepPath,
    corpus: Corpus,
    stretches: Sequence[slice],
    size: int,
    enough: Callable[[Sequence[slice]], bool],
    progress: TextIO | None,
) -> Sequence[slice]:
    """Run the batches of the stretches, one after the other; return the stretches that were run.

    Args:
        path: The way to run them.
        corpus: The windows.
        stretches: Parts of the corpus, each whole shards, that together are all of it.
        size: Windows of a batch, at most.
        enough: Says of the stretches so far whether they are enough. It is asked after each,
            whatever the batches are, until all windows are run.
        progress: Where to draw a progress bar.
    """
    n, context = corpus.tokens.shape
    shard = shard_size(context)
    windows = batches(0, n, size, shard)
    parts = [batches(part.start, part.stop, size, shard) for part in stretches]
    steps = [(rows, index) for index, part in enumerate(parts) for rows in part]
    with path.locked():
        path.begin(stretches, with_bar(windows, path.hook, progress))
        for rows, index in with_bar(steps, path.hook, progress):
            path.run(rows)
            if path.given_up:
                return []
            if rows.stop == stretches[index].stop and not path.whole:
                path.complete(parts[index])
                if enough(stretches[: index + 1]):
                    path.stop()
                    return stretches[: index + 1]
        path.finish(windows)
    return stretches


def shuffled(corpus: Corpus, sae: SAE) -> list[slice]:
    """List the shards of the corpus in the order in which they are measured for this SAE."""
    n, context = corpus.tokens.shape
    size = shard_size(context)
    seed = f"{corpus.sha256}:{digest(contents(sae))}"

    def key(rows: slice) -> bytes:
        return hashlib.sha256(f"{seed}:{rows.start}".encode()).digest()

    return sorted(batches(0, n, size, size), key=key)
