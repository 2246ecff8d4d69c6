"""The session of a process: models, corpora, SAEs, measurements and baselines.

Each is loaded or measured once, when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar, get_args

from sae_guard.core.diagnosis import Diagnosis, diagnose
from sae_guard.core.measurement import Measurement
from sae_guard.core.report import CaseRef
from sae_guard.errors import Contract, LoadError, SaeGuardError, SetupError
from sae_guard.gate.baselines import Baselines
from sae_guard.gate.cases import Case
from sae_guard.gate.early import Judged, Watch, alpha_for, key
from sae_guard.gate.options import GateOptions
from sae_guard.history import NO_VERSION, History, store

if TYPE_CHECKING:
    from sae_guard.cache import Cache
    from sae_guard.core.comparison import Baseline
    from sae_guard.core.thresholds import Threshold
    from sae_guard.corpus import Corpus
    from sae_guard.engine import ActivationStats
    from sae_guard.model import LanguageModel
    from sae_guard.sae import SAE
    from sae_guard.specs import Spec

JudgedOrError = Judged | SaeGuardError
"""Measurement of a case with its early verdicts, or the error that prevented it."""


Result = TypeVar("Result")


class SharedResults(Protocol):
    """Results that the processes of a run share, so that only one process computes each."""

    def computed_once(self, key: str, compute: Callable[[], Result]) -> Result:
        """Return the result of another process, or compute and share it."""


class GateSession:
    """Measures and judges the cases of a run; one per process."""

    def __init__(
        self,
        options: GateOptions,
        cases: Callable[[], Sequence[Case]],
        *,
        baselines: Baselines | None = None,
        shared_results: SharedResults | None = None,
        worker: int = 0,
        progress: TextIO | None = None,
    ) -> None:
        """Prepare a session; nothing is loaded yet.

        Args:
            options: Options of the run.
            cases: Function that returns all cases of the run; cases of one model and corpus share
                a clean run.
            baselines: Recorded versions, where the plan read them; None to read them when needed.
            shared_results: Results shared with the other processes of the run, if there are any.
            worker: Number of this process among them.
            progress: Stream to draw progress bars on; None for no bars.
        """
        self.options = options
        self._cases = cases
        self._baselines = baselines
        self._shared_results = shared_results
        self._worker = worker
        self._progress = progress
        self._results: dict[str, Any] = {}
        self._first_tests: dict[CaseRef, str] = {}
        # Only the last one is kept: two models at once may not fit into memory.
        self._model = lru_cache(maxsize=1)(self._load_model)
        self._corpus = lru_cache(maxsize=1)(self._load_corpus)
        self._sae = lru_cache(maxsize=1)(self._load_sae)
        self._activation_stats = lru_cache(maxsize=1)(self._read_activations)

    @property
    def cases(self) -> Sequence[Case]:
        """Cases of the run."""
        return self._cases()

    @cached_property
    def history(self) -> History:
        """History that versions are recorded in."""
        return History(store.locate(self.options.history, self.options.root))

    @cached_property
    def baselines(self) -> Baselines:
        """Recorded versions to compare with."""
        return self._baselines or Baselines(self.history)

    def check_baseline(self) -> None:
        """Raise `SetupError` where the user names a baseline that is no recorded version."""
        if self.options.baseline not in (None, NO_VERSION):
            self.baselines.check(str(self.options.baseline))

    def baseline(self, case: Case, threshold: Threshold) -> Baseline | None:
        """Return what `Baselines.for_threshold` does, for the baseline that the user names."""
        return self.baselines.for_threshold(case, threshold, self.options.baseline)

    @cached_property
    def device(self) -> str:
        """Device that this process measures on."""
        return pick_device(self.options.device, self._worker)

    def model(self, spec: Spec) -> LanguageModel:
        """Load the spec's model; raises `SetupError` or `InfrastructureError`."""
        return self._model(spec.model, spec.file.parent)

    def corpus(self, spec: Spec) -> Corpus:
        """Load the spec's token windows; raises `SetupError` or `InfrastructureError`."""
        return self._corpus(spec.data, self.model(spec), spec.file.parent)

    def sae(self, case: Case) -> SAE:
        """Load the case's checkpoint, or build its control; raises `LoadError`."""
        sae_or_error = self._sae(case)
        if isinstance(sae_or_error, LoadError):
            raise sae_or_error
        return sae_or_error

    def activation_stats(self, case: Case) -> ActivationStats:
        """Return statistics of the activations that the SAE reads; raises like `corpus`."""
        return self._activation_stats(case.spec, case.hook)

    def check(self, case: Case, contract: Contract) -> None:
        """Raise `LoadError` if the case's checkpoint breaks this part of the load contract."""
        from sae_guard.checkpoints.contract import check

        sae = self.sae(case)
        if contract == "metadata":
            self._check_metadata(case, sae)
        elif contract == "shapes":
            self._check_widths(case, sae)
        else:
            check(contract, sae, case.sae)

    def _check_metadata(self, case: Case, sae: SAE) -> None:
        from sae_guard.engine import HookSite
        from sae_guard.gate.planning import check_metadata

        if case.checkpoint is not None:
            check_metadata(case.spec, sae.source.declared, str(case.checkpoint))
        HookSite.from_sae(sae, case.hook, case.hook_out)

    def _check_widths(self, case: Case, sae: SAE) -> None:
        model = self.model(case.spec)
        for hook, name in ((case.hook, "d_in"), (case.hook_out or case.hook, "d_out")):
            width, sae_width = model.width(hook), getattr(sae, name)
            if width != sae_width:
                raise LoadError(
                    f"{case.checkpoint}: {name} is {sae_width}, but {hook} of {model.name} is "
                    f"{width} wide",
                    "shapes",
                )

    def measurement(self, case: Case) -> Measurement:
        """Return the measurement of a case on all sequences; the first process to ask measures.

        Raises:
            SaeGuardError: The case cannot be measured; every process gets the same error.
        """
        return self._judged_once(case, case.key, None).measurement

    def judged(self, case: Case) -> Judged:
        """Return the measurement that verdicts are made of; early verdicts may end it.

        Raises:
            SaeGuardError: The case cannot be measured; every process gets the same error.
        """
        early = self.options.early
        alpha = alpha_for(early, case.spec)
        watch = None if alpha is None else Watch(case, early, alpha)
        return self._judged_once(case, key(early, case), watch)

    def judged_before(self, case: Case) -> JudgedOrError | None:
        """Return the earlier result of `judged` in this process; None without one."""
        result: JudgedOrError | None = self._results.get(key(self.options.early, case))
        return result

    def diagnosis(self, case: Case, measurement: Measurement) -> Diagnosis:
        """Return probable causes of a checkpoint's bad numbers; none for a control."""
        if case.control or case.checkpoint is None:
            return Diagnosis()
        return self._once(f"{case.key}.diagnosis", partial(self._diagnose, case, measurement))

    def is_first_test(self, case: Case, test: str) -> bool:
        """Return whether this test of the case was the first to ask: it reports the long texts."""
        return self._first_tests.setdefault(case.ref, test) == test

    def _judged_once(self, case: Case, key: str, watch: Watch | None) -> Judged:
        result = self._once(key, partial(self._judge, case, watch))
        if isinstance(result, SaeGuardError):
            raise result
        return result

    def _once(self, key: str, compute: Callable[[], Result]) -> Result:
        """Return a result that this process or another one computed before, or compute it."""
        if key not in self._results:
            shared = self._shared_results
            self._results[key] = shared.computed_once(key, compute) if shared else compute()
        result: Result = self._results[key]
        return result

    def _judge(self, case: Case, watch: Watch | None) -> JudgedOrError:
        result = self._measure(case, watch)
        if isinstance(result, SaeGuardError):
            return result
        if watch is None:
            return Judged(result, {})
        early = watch.early.verdicts
        return Judged(result, early, watch.ended, self.options.early.audit, watch.alpha)

    def _diagnose(self, case: Case, measurement: Measurement) -> Diagnosis:
        import torch

        from sae_guard.engine import HookSite
        from sae_guard.examination import examine

        sae, thorough = self.sae(case), self.options.diagnose
        examination, reason = None, "the batch has too few tokens that are scored and not special"
        try:
            examination = examine(
                self.model(case.spec),
                sae,
                self.corpus(case.spec),
                HookSite.from_sae(sae, case.hook, case.hook_out),
                thorough=thorough,
            )
        # The measurement stands: without an examination there still is a verdict.
        except (SaeGuardError, torch.OutOfMemoryError) as error:
            reason = str(error)
        diagnosis = diagnose(measurement, examination)
        if thorough and examination is None:
            return replace(diagnosis, tried=(f"nothing could be tried: {reason}",))
        return diagnosis

    def _measure(self, case: Case, watch: Watch | None) -> Measurement | SaeGuardError:
        from sae_guard.engine import Intervention, measure, measure_until

        spec = case.spec
        try:
            # The load contract holds even if its tests are deselected.
            for contract in () if case.control else get_args(Contract):
                self.check(case, contract)
            sae, hooks = self.sae(case), (case.hook, case.hook_out)
            arguments: dict[str, Any] = {
                "batch_size": self.options.batch_size,
                "reference": self.options.reference,
                "random_error": case.random_error,
                "cache": self._cache,
                "later_hooks": self._hooks_beside(case),
                "expect_clean_ce": spec.data.expect_clean_ce,
                "progress": self._progress,
            }
            model, corpus = self.model(spec), self.corpus(spec)
            if watch is None:
                return measure(model, sae, corpus, hooks[0], hook_out=hooks[1], **arguments)
            intervention = Intervention(sae, *hooks)
            return measure_until(model, intervention, corpus, watch, **watch.needs, **arguments)
        except SaeGuardError as error:
            return error

    def _hooks_beside(self, case: Case) -> list[tuple[str, ...]]:
        """Return the hook points of all cases that can share the clean run of this one."""

        def clean_run(other: Case) -> tuple[object, ...]:
            return other.spec.model, other.spec.data, other.spec.file.parent

        cases = [other for other in self.cases if clean_run(other) == clean_run(case)]
        hooks = [tuple(filter(None, (other.hook, other.hook_out))) for other in cases]
        return list(dict.fromkeys(hooks))

    def _load_model(self, model: Any, base: Path) -> LanguageModel:
        from sae_guard.model import load_model

        return load_model(
            model.path_or_name(base),
            dtype=model.dtype,
            processing=model.processing,
            revision=model.revision,
            # A model that is spread over several devices has no single one.
            device=None if model.device_map else self.device,
            device_map=model.placement,
        )

    def _load_corpus(self, data: Any, model: LanguageModel, base: Path) -> Corpus:
        from sae_guard.corpus import build_corpus

        return build_corpus(data, model.tokenizer, base)

    def _load_sae(self, case: Case) -> SAE | LoadError:
        from sae_guard.checkpoints.load import load_checkpoint

        if case.control or case.checkpoint is None:
            return control_sae(case, self)
        try:
            return load_checkpoint(case.checkpoint, case.sae, device=self.device)
        except LoadError as error:
            # Returned, so that it is cached: each test of the case asks again.
            return error

    def _read_activations(self, spec: Spec, hook: str) -> ActivationStats:
        from sae_guard.engine import activation_stats

        return activation_stats(
            self.model(spec),
            self.corpus(spec),
            hook,
            batch_size=self.options.batch_size,
            cache=self._cache,
        )

    @cached_property
    def _cache(self) -> Cache | None:
        from sae_guard.cache import Cache, root_from_option

        root = root_from_option(self.options.cache)
        limit = int(self.options.cache_gib * 2**30)
        return Cache(self.options.here / root, limit) if root else None


def pick_device(requested: str, worker: int) -> str:
    """Return the device that a worker measures on.

    ``auto`` is CUDA, else MPS, else the CPU. Without an index, workers take the GPUs in turn.

    Args:
        requested: A device as in `options.DEVICES`.
        worker: Number of the worker; 0 where there is one process.

    Raises:
        SetupError: The machine has no such device.
    """
    import torch

    gpus = torch.cuda.device_count()
    if requested == "auto":
        requested = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    if requested == "mps" and not torch.backends.mps.is_available():
        raise SetupError("device mps: this machine has no MPS device", options=("device",))
    if requested.startswith("cuda"):
        index = int(requested[5:]) if ":" in requested else worker % max(gpus, 1)
        if index >= gpus:
            raise SetupError(
                f"device {requested}: this machine has {gpus} CUDA devices", options=("device",)
            )
        return f"cuda:{index}"
    return requested


def control_sae(case: Case, session: GateSession) -> SAE:
    """Build the SAE of a control; null models raise like `GateSession.measurement`."""
    from sae_guard.gate.cases import PERMUTED, RANDOM
    from sae_guard.sae import controls

    if case.control == PERMUTED:
        return controls.permuted_decoder(session.sae(case.itself))
    if case.control == RANDOM:
        l0 = session.measurement(case.itself)["l0"]
        d_sae, stats = session.sae(case.itself).d_sae, session.activation_stats(case)
        k = min(max(1, round(l0)), d_sae)
        sample = stats.sample.to(session.device)
        return controls.random_directions(sample, stats.mean, d_sae=d_sae, k=k)
    if case.control == "mean":
        return controls.mean_sae(session.activation_stats(case).mean).to(session.device)
    build = {"identity": controls.identity_sae, "zero": controls.zero_sae}[case.control]
    return build(session.model(case.spec).width(case.hook)).to(session.device)
