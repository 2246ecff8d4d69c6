"""One sweep over the batches of a corpus, on either path: over all windows or until it may stop.

A measurement runs *segments* of the corpus one after the other, each in batches. A complete
measurement has one segment, the corpus in its own order. One that may stop early has a segment for
each shard, in a random order, and decides after each segment whether to stop.

The order of shards depends on the hashes of tokens and SAE (and a corpus that was built from text
has its windows in the order of their hashes). So the first shards are a random sample, the same on
every machine, and nobody can tune an SAE for the windows that come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TextIO

from jaxtyping import Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine.batches import batches, shard_size, with_progress_bar
from sae_guard.engine.memory import digest, sae_parts
from sae_guard.sae import SAE


class PathResult(NamedTuple):
    """Numbers of one SAE that a path has so far; rows of windows that were not run mean nothing."""

    sums: Mapping[str, Tensor]
    """Column → float64, shape [n_sequences]."""
    tokens: Mapping[str, Tensor]
    """Column → float32, shape [n_sequences, pos - 1]."""
    firings: Tensor
    """Number of scored tokens on which each latent is active, int64, shape [d_sae]."""
    mean: Float[Tensor, " d_out"] | None
    """Mean activation μ of the corpus; None if it is not known."""
    paths: dict[str, str]
    """Paths that were taken, and the reason if the plain one was, for `Provenance.paths`."""
    spread: Tensor | None = None
    """Spread of the firings, as in `SaeRun.spread`."""
    sq_deviation: float | None = None
    """Σ‖y − μ‖² over the complete corpus; None if it is not known."""


class SweepPath:
    """A way to run the windows of a corpus for SAEs; holds the numbers so far."""

    hook: str
    """Title of the progress bar."""
    every_logit: bool
    """True if all logits of a batch exist at once."""

    def locked(self) -> AbstractContextManager[object]:
        """Make other processes that measure the same wait."""
        return nullcontext()

    def begin(self, segments: Sequence[slice], windows: Iterable[slice]) -> None:
        """Prepare the first batch.

        Args:
            segments: Segments in the order in which they will be run.
            windows: All batches of the corpus, for a path that needs a pass of its own first.
        """
        raise NotImplementedError

    def run(self, rows: slice) -> None:
        """Run a batch, unless it was run before."""
        raise NotImplementedError

    @property
    def is_rejected(self) -> bool:
        """True if the path is rejected for all its SAEs."""
        return False

    @property
    def is_complete(self) -> bool:
        """True if all windows were run."""
        raise NotImplementedError

    def fill_early(self, windows: Sequence[slice]) -> None:
        """Fill in columns of some batches that a complete sweep fills in by `finish`."""

    def stop(self) -> None:
        """End the sweep early."""

    def finish(self, windows: Sequence[slice]) -> None:
        """Fill in the remaining columns after the last batch.

        Args:
            windows: All batches of the corpus.
        """

    def results(self) -> list[PathResult | str]:
        """Return the result for each SAE, or the reason why the path is rejected for it."""
        raise NotImplementedError


def run(
    path: SweepPath,
    corpus: Corpus,
    segments: Sequence[slice],
    size: int,
    is_enough: Callable[[Sequence[slice]], bool],
    progress: TextIO | None,
) -> Sequence[slice]:
    """Run the batches of the segments, one after the other; return the segments that were run.

    Args:
        path: Path that runs a batch.
        corpus: Windows.
        segments: Parts of the corpus of complete shards, which together are the corpus.
        size: Windows of a batch, at most.
        is_enough: Says of the segments so far whether to stop. It is called after each segment,
            whatever the batch size, until all windows were run.
        progress: Stream to draw a progress bar on, or None.

    Returns:
        Segments that were run; none if the path is rejected for all its SAEs.
    """
    n, context = corpus.tokens.shape
    shard = shard_size(context)
    windows = batches(0, n, size, shard)
    parts = [batches(part.start, part.stop, size, shard) for part in segments]
    steps = [(rows, index) for index, part in enumerate(parts) for rows in part]
    with path.locked():
        path.begin(segments, with_progress_bar(windows, path.hook, progress))
        for rows, index in with_progress_bar(steps, path.hook, progress):
            path.run(rows)
            if path.is_rejected:
                return []
            if rows.stop == segments[index].stop and not path.is_complete:
                path.fill_early(parts[index])
                if is_enough(segments[: index + 1]):
                    path.stop()
                    return segments[: index + 1]
        path.finish(windows)
    return segments


def shuffled_shards(corpus: Corpus, sae: SAE) -> list[slice]:
    """List the shards of the corpus in the order in which they are measured for this SAE."""
    n, context = corpus.tokens.shape
    size = shard_size(context)
    seed = f"{corpus.sha256}:{digest(sae_parts(sae))}"

    def key(rows: slice) -> bytes:
        return hashlib.sha256(f"{seed}:{rows.start}".encode()).digest()

    return sorted(batches(0, n, size, size), key=key)
