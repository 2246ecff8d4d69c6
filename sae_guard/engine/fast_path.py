"""The fast path: a clean run for several SAEs, at any hook points of a model, and a suffix each.

Proof comes before use: its first batch is compared with the plain path, on the first sequences.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from jaxtyping import Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import head, plain
from sae_guard.engine.ablation import Ablated
from sae_guard.engine.batches import in_halves
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.memory import Memory, Tensors, run_name
from sae_guard.engine.sae_run import SaeRun
from sae_guard.engine.sweep import PathResult, SweepPath
from sae_guard.engine.token_metrics import ABLATIONS
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel

_SAVE_EVERY = 5.0
"""Seconds of work that a run which is stopped may lose."""
_OF_OTHER_MODELS = (SetupError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)
"""What a model that is built otherwise raises where blocks are taken out of it."""
# Per token, absolute and relative: what float32 logits of another batch shape differ by, and what
# the residuals of half-precision models do, which are rounded to 8 bits.
_TOLERANCE, _TOLERANCE_OF_HALVES = 1e-4, 5e-2
_PROOF_SEQUENCES = 2


class FastPath(SweepPath):
    """The runs of the SAEs, and what they share.

    A batch is one clean run, if that is not remembered, and of each SAE a run of the blocks from
    its hook point on.
    """

    every_logit = False

    def __init__(
        self,
        model: LanguageModel,
        runs: Sequence[SaeRun],
        corpus: Corpus,
        memory: Memory,
        also: Iterable[str] = (),
        *,
        centred: bool = False,
    ) -> None:
        self.runs = list(runs)
        """Of the SAEs that it is not given up for."""
        self.memory = memory
        self.names = {run: _name(run) for run in runs} if memory.entry else {}
        """By what they are remembered."""
        self.hook = ", ".join(dict.fromkeys(run.at.read for run in runs))
        self._all = list(runs)
        self._reasons: dict[SaeRun, str] = {}
        self._proved = False
        self._centred = centred
        self._unembedding = model.unembedding
        self._corpus = corpus
        sources = [name for run in runs for name in run.suffix.sources(*run.at.hooks)]
        self.clean_runs = CleanRuns(model, self._unembedding, corpus, memory, sources, also)
        self._ablated = {
            run.at.replaced: Ablated(run.suffix, corpus, run.at.replaced, self.clean_runs, memory)
            for run in runs
        }
        self._saved = time.monotonic()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time measure each of the SAEs."""
        with ExitStack() as locks:
            for name in sorted(set(self.names.values())):
                locks.enter_context(self.memory.lock(name))
            yield

    def begin(self, stretches: Sequence[slice], windows: Iterable[slice]) -> None:
        """Go on from where earlier runs of the same were; one of no use is not written over."""
        for run, name in list(self.names.items()):
            tensors = self.memory.read(name)
            if tensors is None:
                continue
            if _usable(tensors, run, stretches):
                run.restore(tensors)
            else:
                del self.names[run]

    def run(self, rows: slice) -> None:
        """Run a batch, unless it was run before; prove the path by the first one."""
        if all(bool(run.done[rows].all()) for run in self.runs):
            return
        if self._proved:
            in_halves(self.batch, rows)
        else:
            self._run_and_prove(rows)
        if self._proved:
            self._save()

    @property
    def given_up(self) -> bool:
        """Say whether the path is not to be taken for any of its SAEs."""
        return not self.runs

    @property
    def whole(self) -> bool:
        """Say whether no window is left to run."""
        return all(bool(run.done.all()) for run in self.runs)

    def complete(self, windows: Sequence[slice]) -> None:
        """Fill in the columns of the hook points; those about μ if the path is centred."""
        for ablated in self._ablated.values():
            if self._centred:
                ablated.find_centre()
            for rows in windows:
                ablated.fill(rows)

    def stop(self) -> None:
        """Remember how far the runs are."""
        self._save(now=True)

    def finish(self, windows: Sequence[slice]) -> None:
        """Compute what needs μ, of all batches."""
        self._save(now=True)
        for hook in dict.fromkeys(run.at.replaced for run in self.runs):
            self._ablated[hook].finish(windows)

    def results(self) -> list[PathResult | str]:
        """Return of each SAE what is measured by now, or why it is given up."""
        return [self._reasons.get(run) or self._result(run) for run in self._all]

    def batch(self, rows: slice) -> None:
        """Run everything of these windows that does not need μ."""
        clean_run = self.clean_runs.of(rows)
        runs = [run for run in self.runs if not bool(run.done[rows].all())]
        finals = [(run, *final) for run in runs for final in run.finals(rows, clean_run).items()]
        target = self._corpus.tokens[rows, 1:][self._corpus.scored[rows, :-1]]
        others = [(model_run, final) for _, model_run, final in finals]
        losses = head.losses(self._unembedding, clean_run.predictions, others, target)
        for ablated in self._ablated.values():
            ablated.batch(rows, clean_run)
        columns = {run: dict(losses.clean) for run in runs}
        for (run, *_), values in zip(finals, losses.others, strict=True):
            columns[run] |= values
        # Last: a batch that did not fit is run again.
        for run in runs:
            run.take(rows, columns[run])

    def _save(self, *, now: bool = False) -> None:
        """Remember how far the runs are, every few seconds."""
        if now or time.monotonic() - self._saved > _SAVE_EVERY:
            for run, name in self.names.items():
                if run in self.runs:
                    self.memory.write(name, run.tensors)
            self._saved = time.monotonic()

    def _run_and_prove(self, rows: slice) -> None:
        """Run one of the first batches, and give up the SAEs of which it proves no good.

        A batch without a scored token proves nothing. In a model that is built otherwise than the
        suffix takes it for, all are given up.
        """
        try:
            in_halves(self.batch, rows)
            if not bool(self._corpus.scored[rows].any()):
                return
            checked = {run: self._difference(run, rows) for run in self.runs}
            self._reasons |= {run: reason for run, reason in checked.items() if reason}
        except _OF_OTHER_MODELS as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._reasons |= dict.fromkeys(self.runs, reason)
        self.runs = [run for run in self.runs if run not in self._reasons]
        self._proved = True

    def _difference(self, run: SaeRun, batch: slice) -> str:
        """Name a sum of the first scored sequences that is not that of the plain path; or nothing.

        Args:
            run: After the batch.
            batch: With a scored token.
        """
        scored = run.corpus.scored[batch].any(dim=1)
        first = batch.start + int(scored.nonzero()[0])
        rows = slice(first, min(first + _PROOF_SEQUENCES, batch.stop))
        clean_run, ablated = self.clean_runs.of(rows), self._ablated[run.at.replaced]
        y = clean_run.activations[run.suffix.source(run.at.replaced)]
        mean = y[run.corpus.scored[rows].to(y.device)].mean(dim=0).double().cpu()
        sums = {name: values[rows] for name, values in run.sums.items()}
        # What is remembered of a hook point was proved before.
        if not ablated.finished:
            for name, value_of in ABLATIONS.items():
                sums[name] = ablated.losses(value_of(mean), rows, clean_run)
            sums["sq_deviation"] = ablated.deviations(mean, rows, clean_run)
        expected = plain.batch(
            run.suffix.model, run.sae, run.corpus, run.at, rows,
            None if ablated.finished else mean, random_error=run.random_error,
        ).sums  # fmt: skip
        half = run.suffix.model.identity["dtype"] in ("float16", "bfloat16")
        tolerance = _TOLERANCE_OF_HALVES if half else _TOLERANCE
        n = expected["n_tokens"].clamp(min=1)
        for name, values in expected.items():
            mine, theirs = sums[name] / n, values / n
            if _far(mine, theirs, tolerance):
                both = f"{mine.tolist()}, {theirs.tolist()}"
                return f"{name} differs from that of the whole model: {both}"
        return ""

    def _result(self, run: SaeRun) -> PathResult:
        ablated = self._ablated[run.at.replaced]
        paths = {
            "forward": f"from block {run.suffix.block} on",
            "ablations": ablated.path,
            "clean run": self.clean_runs.path,
        }
        sums, tokens = {**run.sums, **ablated.sums}, {**run.tokens, **ablated.tokens}
        mean, sq_deviation = ablated.centre or (None, None)
        return PathResult(sums, tokens, run.firings, mean, paths, run.spread, sq_deviation)


def _name(run: SaeRun) -> str:
    return run_name(run.sae, run.at, random_error=run.random_error)


def _usable(tensors: Tensors, run: SaeRun, stretches: Sequence[slice]) -> bool:
    """Say whether a run can go on from these tensors.

    They need all that is asked for. A window may be done only in the first stretches, up to one
    that is not done: after that one a look counts the firings of all windows.
    """
    done = tensors["done"]
    if bool(done.all()):
        return True
    if run.spread is not None and "spread" not in tensors:
        return False
    whole = [bool(done[rows].all()) for rows in stretches]
    return not any(bool(done[rows].any()) for rows in stretches[whole.index(False) + 1 :])


def _far(mine: Float[Tensor, " rows"], theirs: Float[Tensor, " rows"], tolerance: float) -> bool:
    finite = mine.isfinite() & theirs.isfinite()
    # What is not finite in both is no difference: a verdict on it will not be reached.
    either = mine.isfinite() | theirs.isfinite()
    far = (mine - theirs).abs() > tolerance * (1 + theirs.abs())
    return bool(((far | ~finite) & either).any())
