"""One pass over the corpus for several SAEs, at any hook points of one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from sae_guard.corpus import Corpus
from sae_guard.engine import head
from sae_guard.engine.ablation import Ablated
from sae_guard.engine.clean_run import Bases
from sae_guard.engine.fast import Run
from sae_guard.engine.fast_path_check import difference
from sae_guard.engine.memory import Memory, Tensors, run_name
from sae_guard.model import LanguageModel

_SAVE_EVERY = 5.0
"""Seconds of work that a run which is stopped may lose."""


class Sweep:
    """The runs of the SAEs, and what they share.

    A batch is one clean run, if that is not remembered, and of each SAE a run of the blocks from
    its hook point on.
    """

    def __init__(
        self,
        model: LanguageModel,
        runs: Sequence[Run],
        corpus: Corpus,
        memory: Memory,
        also: Iterable[str] = (),
    ) -> None:
        self.runs = list(runs)
        self.memory = memory
        self.names = {run: _name(run) for run in runs} if memory.entry else {}
        """By what they are remembered."""
        self._unembedding = model.unembedding
        self._corpus = corpus
        sources = [name for run in runs for name in run.suffix.sources(*run.at.hooks)]
        self.bases = Bases(model, self._unembedding, corpus, memory, sources, also)
        self._ablated = {
            run.at.replaced: Ablated(run.suffix, corpus, run.at.replaced, self.bases, memory)
            for run in runs
        }
        self._saved = time.monotonic()

    def ablated(self, run: Run) -> Ablated:
        """What stands beside the SAE of a run."""
        return self._ablated[run.at.replaced]

    def restore(self, usable: Callable[[Tensors], bool] = lambda kept: True) -> None:
        """Go on from where an earlier run of the same was; one of no use is not written over."""
        for run, name in list(self.names.items()):
            kept = self.memory.read(name)
            if kept is None:
                continue
            if usable(kept):
                run.restore(kept)
            else:
                del self.names[run]

    def save(self, *, now: bool = False) -> None:
        """Remember how far the runs are, every few seconds."""
        if now or time.monotonic() - self._saved > _SAVE_EVERY:
            for run, name in self.names.items():
                if run in self.runs:
                    self.memory.write(name, run.tensors)
            self._saved = time.monotonic()

    def done(self, rows: slice) -> bool:
        """Whether nothing of these windows is left to run for the SAEs."""
        return all(bool(run.done[rows].all()) for run in self.runs)

    def batch(self, rows: slice) -> None:
        """Everything of these windows that does not need μ."""
        base = self.bases.of(rows)
        runs = [run for run in self.runs if not bool(run.done[rows].all())]
        finals = [(run, *final) for run in runs for final in run.finals(rows, base).items()]
        target = self._corpus.tokens[rows, 1:][self._corpus.scored[rows, :-1]]
        others = [(model_run, final) for _, model_run, final in finals]
        losses = head.losses(self._unembedding, base.clean, others, target)
        for ablated in self._ablated.values():
            ablated.batch(rows, base)
        columns = {run: dict(losses.clean) for run in runs}
        for (run, *_), values in zip(finals, losses.others, strict=True):
            columns[run] |= values
        # Last: a batch that did not fit is run again.
        for run in runs:
            run.take(rows, columns[run])

    def prove(self, rows: slice) -> dict[Run, str]:
        """The runs that are given up, and why: they differ from the plain path in this batch."""
        found = {
            run: reason
            for run in self.runs
            if (reason := difference(run, self.ablated(run), self.bases, rows)) is not None
        }
        self.runs = [run for run in self.runs if run not in found]
        return found

    def finish(self, batches: Sequence[slice]) -> None:
        """What needs μ."""
        self.save(now=True)
        for hook in dict.fromkeys(run.at.replaced for run in self.runs):
            self._ablated[hook].finish(batches)


def _name(run: Run) -> str:
    return run_name(run.sae, run.at, random_error=run.random_error)
