"""The fast path: one clean run for several SAEs, and for each SAE a run of the blocks after it.

It is verified before it is used: its first batch is compared with the plain path.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from jaxtyping import Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import head, plain
from sae_guard.engine.ablation import HookPointColumns
from sae_guard.engine.batches import halve_on_oom
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.memory import Memory, Tensors, run_name
from sae_guard.engine.sae_run import SaeRun
from sae_guard.engine.sweep import PathResult, SweepPath
from sae_guard.engine.token_metrics import ABLATIONS
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel

_SAVE_EVERY = 5.0
"""Seconds of work that are lost, at most, when a measurement is interrupted."""
# Raised by models whose blocks cannot be skipped, because they are built in another way.
_UNSUPPORTED_MODEL_ERRORS = (
    # Not `LoadError` and `InfrastructureError`: the plain path would meet the same fault.
    SetupError, AttributeError, LookupError, TypeError, ValueError, RuntimeError,
)  # fmt: skip
# Tolerated difference per token, absolute and relative: batches of another shape round float32
# logits differently; half-precision models round the residual stream to as few as 8 bits.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 5e-2
_COMPARED_SEQUENCES = 2


class FastPath(SweepPath):
    """Measures several SAEs batch by batch.

    A batch is one clean run, unless that is in the cache, and for each SAE a run of the blocks from
    its hook point on.
    """

    every_logit = False

    def __init__(
        self,
        model: LanguageModel,
        runs: Sequence[SaeRun],
        corpus: Corpus,
        memory: Memory,
        later_hooks: Iterable[str] = (),
        *,
        centred: bool = False,
    ) -> None:
        """Prepare the measurement; nothing is run yet.

        Args:
            model: Language model.
            runs: One run for each SAE.
            corpus: Windows.
            memory: Cache entry of the model and corpus.
            later_hooks: Further hook points whose clean activations are stored in the cache.
            centred: True to compute μ early, so that metrics that use it are available early.
        """
        self.runs = list(runs)
        """Runs of the SAEs that the path is not rejected for."""
        self.memory = memory
        self.names = {
            run: run_name(run.sae, run.site, random_error=run.random_error)
            for run in (runs if memory.entry else ())
        }
        """Run → its name in the cache entry."""
        self.hook = ", ".join(dict.fromkeys(run.site.read for run in runs))
        self._all_runs = list(runs)
        self._reasons: dict[SaeRun, str] = {}
        self._compared = False
        self._centred = centred
        self._unembedding = model.unembedding
        self._corpus = corpus
        hooks = [hook for run in runs for hook in run.suffix.clean_hooks(*run.site.hooks)]
        self.clean_runs = CleanRuns(model, corpus, memory, hooks, later_hooks)
        self._hook_columns = {
            hook: HookPointColumns(run.suffix, corpus, hook, self.clean_runs, memory)
            for hook, run in ((run.site.replaced, run) for run in runs)
        }
        self._saved = time.monotonic()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make other processes that measure one of these SAEs wait."""
        with ExitStack() as locks:
            # In one order: two processes that measure the same SAEs must not wait for each other.
            for name in sorted(set(self.names.values())):
                locks.enter_context(self.memory.lock(name))
            yield

    def begin(self, segments: Sequence[slice], windows: Iterable[slice]) -> None:
        """Continue interrupted runs from the cache.

        A cached run that cannot be continued is not overwritten: another measurement may need it.
        """
        for run, name in list(self.names.items()):
            tensors = self.memory.read(name)
            if tensors is None:
                continue
            if _can_resume(tensors, run, segments):
                run.restore(tensors)
            else:
                del self.names[run]

    def run(self, rows: slice) -> None:
        """Run a batch, unless it was run before; compare the first one with the plain path."""
        if all(bool(run.done[rows].all()) for run in self.runs):
            return
        if self._compared:
            halve_on_oom(self.batch, rows)
        else:
            self._run_and_compare(rows)
        if self._compared:
            self._save()

    @property
    def is_rejected(self) -> bool:
        """True if the path is rejected for all its SAEs."""
        return not self.runs

    @property
    def is_complete(self) -> bool:
        """True if all windows were run."""
        return all(bool(run.done.all()) for run in self.runs)

    def fill_early(self, windows: Sequence[slice]) -> None:
        """Fill in the columns of the hook points; those that use μ if the path is centred."""
        for hook_columns in self._hook_columns.values():
            if self._centred:
                hook_columns.compute_centre()
            for rows in windows:
                hook_columns.fill(rows)

    def stop(self) -> None:
        """Store the runs as they are."""
        self._save(now=True)

    def finish(self, windows: Sequence[slice]) -> None:
        """Fill in the columns that use μ, of all batches."""
        self._save(now=True)
        for hook in dict.fromkeys(run.site.replaced for run in self.runs):
            self._hook_columns[hook].finish(windows)

    def results(self) -> list[PathResult | str]:
        """Return the result for each SAE, or the reason why the path is rejected for it."""
        return [self._reasons.get(run) or self._result(run) for run in self._all_runs]

    def batch(self, rows: slice) -> None:
        """Compute the numbers of some windows that do not need μ."""
        clean_run = self.clean_runs.for_rows(rows)
        runs = [run for run in self.runs if not bool(run.done[rows].all())]
        finals = [(run, *final) for run in runs for final in run.finals(rows, clean_run).items()]
        target = self._corpus.tokens[rows, 1:][self._corpus.scored[rows, :-1]]
        replaced = [(model_run, final) for _, model_run, final in finals]
        losses = head.losses(self._unembedding, clean_run.predictions, replaced, target)
        for hook_columns in self._hook_columns.values():
            hook_columns.batch(rows, clean_run)
        columns = {run: dict(losses.clean) for run in runs}
        for (run, *_), values in zip(finals, losses.replaced, strict=True):
            columns[run] |= values
        # Last, since a batch that runs out of memory is run again and must not count twice.
        for run in runs:
            run.take(rows, columns[run])

    def _save(self, *, now: bool = False) -> None:
        """Store the runs, unless that was done a few seconds ago.

        Args:
            now: True to store them in any case.
        """
        if now or time.monotonic() - self._saved > _SAVE_EVERY:
            for run, name in self.names.items():
                if run in self.runs:
                    self.memory.write(name, run.tensors)
            self._saved = time.monotonic()

    def _run_and_compare(self, rows: slice) -> None:
        """Run a batch, and reject the path for SAEs whose numbers differ from the plain path's.

        A batch without a scored token decides nothing. The path is rejected for all SAEs if the
        model is built in another way than `Suffix` expects.
        """
        try:
            halve_on_oom(self.batch, rows)
            if not bool(self._corpus.scored[rows].any()):
                return
            differences = {run: self._difference(run, rows) for run in self.runs}
            self._reasons |= {run: reason for run, reason in differences.items() if reason}
        except _UNSUPPORTED_MODEL_ERRORS as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._reasons |= dict.fromkeys(self.runs, reason)
        self.runs = [run for run in self.runs if run not in self._reasons]
        self._compared = True

    def _difference(self, run: SaeRun, batch: slice) -> str:
        """Return how a sum of the first scored sequences differs from the plain path's, or "".

        Args:
            run: Run of an SAE, after the batch.
            batch: Windows with a scored token.
        """
        scored = run.corpus.scored[batch].any(dim=1)
        first = batch.start + int(scored.nonzero()[0])
        rows = slice(first, min(first + _COMPARED_SEQUENCES, batch.stop))
        clean_run = self.clean_runs.for_rows(rows)
        hook_columns = self._hook_columns[run.site.replaced]
        y = clean_run.activations[run.suffix.clean_hook(run.site.replaced)]
        # μ is not known yet. Both paths ablate by the mean of these windows, which tests as much.
        mean = y[run.corpus.scored[rows].to(y.device)].mean(dim=0).double().cpu()
        sums = {name: values[rows] for name, values in run.sums.items()}
        # Columns of a hook point that come from the cache were compared before they were stored.
        if not hook_columns.finished:
            for name, value_of in ABLATIONS.items():
                sums[name] = hook_columns.losses(value_of(mean), rows, clean_run)
            sums["sq_deviation"] = hook_columns.deviations(mean, rows, clean_run)
        expected = plain.batch(
            run.suffix.model, run.sae, run.corpus, run.site, rows,
            None if hook_columns.finished else mean, random_error=run.random_error,
        ).sums  # fmt: skip
        is_half = run.suffix.model.identity["dtype"] in ("float16", "bfloat16")
        tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE
        n = expected["n_tokens"].clamp(min=1)
        for name, values in expected.items():
            fast_mean, plain_mean = sums[name] / n, values / n
            if _differs(fast_mean, plain_mean, tolerance):
                both = f"{fast_mean.tolist()}, {plain_mean.tolist()}"
                return f"{name} differs from that of the whole model: {both}"
        return ""

    def _result(self, run: SaeRun) -> PathResult:
        hook_columns = self._hook_columns[run.site.replaced]
        paths = {
            "forward": f"from block {run.suffix.block} on",
            "ablations": hook_columns.path,
            "clean run": self.clean_runs.path,
        }
        sums = {**run.sums, **hook_columns.sums}
        tokens = {**run.tokens, **hook_columns.tokens}
        mean, sq_deviation = hook_columns.centre or (None, None)
        return PathResult(sums, tokens, run.firings, mean, paths, run.spread, sq_deviation)


def _can_resume(tensors: Tensors, run: SaeRun, segments: Sequence[slice]) -> bool:
    """Return True if a run can continue from cached tensors.

    They must hold the firing spread if it is requested. No window after the first incomplete
    segment may be done: firings are one sum over all windows that were run, so an early result
    would count the firings of windows that it does not contain.
    """
    done = tensors["done"]
    if bool(done.all()):
        return True
    if run.spread is not None and "spread" not in tensors:
        return False
    is_complete = [bool(done[rows].all()) for rows in segments]
    return not any(bool(done[rows].any()) for rows in segments[is_complete.index(False) + 1 :])


def _differs(
    fast: Float[Tensor, " rows"], reference: Float[Tensor, " rows"], tolerance: float
) -> bool:
    both_finite = fast.isfinite() & reference.isfinite()
    # Numbers that are finite on neither path are no difference: no verdict is based on them.
    any_finite = fast.isfinite() | reference.isfinite()
    # A NaN and an infinite reference compare as False here: `both_finite` decides about them.
    is_off = (fast - reference).abs() > tolerance * (1 + reference.abs())
    return bool(((is_off | ~both_finite) & any_finite).any())
