"""What a process measures with: models, corpora, SAEs and controls, each case measured once."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, get_args

from sae_guard.errors import Contract, LoadError, SaeGuardError, SetupError
from sae_guard.gate.early import EarlyOptions, Judged, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sae_guard.cache import Cache
    from sae_guard.core.measurement import Measurement
    from sae_guard.corpus import Corpus
    from sae_guard.engine import ActivationStats
    from sae_guard.gate.cases import Case
    from sae_guard.model import LanguageModel
    from sae_guard.sae import SAE
    from sae_guard.specs import Spec


DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICES = "auto, cpu, mps, cuda, cuda:N"
"""What `pick_device` takes, and in words."""

Found = Judged | SaeGuardError
"""Of a case: what was measured, or why it was not."""


class Workbench:
    """Loads lazily and remembers; one per process."""

    def __init__(
        self,
        *,
        device: str,
        batch_size: int | None = None,
        reference: bool = False,
        cache: Callable[[], Cache | None] = lambda: None,
        cases: Callable[[], Sequence[Case]] = tuple,
        early: EarlyOptions | None = None,
        share: Callable[[str, Case, Callable[[], Found]], Found] | None = None,
        worker: int = 0,
        progress: TextIO | None = None,
    ) -> None:
        self._requested = device
        self._batch_size = batch_size
        self._reference = reference
        self._cache = cache
        self._cases = cases
        self._early = early or EarlyOptions()
        self._share = share
        self._worker = worker
        self._progress = progress
        self._measured: dict[str, Found] = {}
        # The last one only: two models at once may not fit where each alone does.
        self._model = lru_cache(maxsize=1)(self._load_model)
        self._corpus = lru_cache(maxsize=1)(self._load_corpus)
        self._sae = lru_cache(maxsize=1)(self._load_sae)
        self._seen = lru_cache(maxsize=1)(self._look)

    @cached_property
    def device(self) -> str:
        """The device that this process measures on."""
        return pick_device(self._requested, self._worker)

    def model(self, spec: Spec) -> LanguageModel:
        """The spec's model; raises `SetupError` or `InfrastructureError`."""
        return self._model(spec.model, spec.file.parent)

    def corpus(self, spec: Spec) -> Corpus:
        """The spec's token windows; raises `SetupError` or `InfrastructureError`."""
        return self._corpus(spec.data, self.model(spec), spec.file.parent)

    def sae(self, case: Case) -> SAE:
        """The case's checkpoint, or control; raises `LoadError`."""
        found = self._sae(case)
        if isinstance(found, LoadError):
            raise found
        return found

    def seen(self, case: Case) -> ActivationStats:
        """What the clean model shows where the case reads; raises like `corpus`."""
        return self._seen(case.spec, case.hook)

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
        HookSite.of(sae, case.hook, case.hook_out)

    def _check_widths(self, case: Case, sae: SAE) -> None:
        model = self.model(case.spec)
        for hook, name in ((case.hook, "d_in"), (case.hook_out or case.hook, "d_out")):
            width, found = model.width(hook), getattr(sae, name)
            if width != found:
                raise LoadError(
                    f"{case.checkpoint}: {name} is {found}, but {hook} of {model.name} is {width} "
                    "wide",
                    "shapes",
                )

    def measurement(self, case: Case) -> Measurement:
        """The case's whole measurement, measured by the first process that asks.

        Raises:
            SaeGuardError: What went wrong, for every process and test alike.
        """
        return self._found(case, case.key, None).measurement

    def judged(self, case: Case) -> Judged:
        """What the case's verdicts are made of: a run may end as soon as they stand.

        Raises:
            SaeGuardError: What went wrong, for every process and test alike.
        """
        alpha = self._early.alpha_for(case.spec)
        if alpha is None:
            return Judged(self.measurement(case), {})
        return self._found(case, self._early.key(case), Watch(case, self._early, alpha))

    def kept(self, case: Case) -> Found | None:
        """What `judged` found in this process, if it was asked."""
        return self._measured.get(self._early.key(case))

    def _found(self, case: Case, key: str, watch: Watch | None) -> Judged:
        if key not in self._measured:
            make = partial(self._judge, case, watch)
            self._measured[key] = make() if self._share is None else self._share(key, case, make)
        found = self._measured[key]
        if isinstance(found, SaeGuardError):
            raise found
        return found

    def _judge(self, case: Case, watch: Watch | None) -> Found:
        result = self._measure(case, watch)
        if isinstance(result, SaeGuardError):
            return result
        if watch is None:
            return Judged(result, {})
        early = watch.early.verdicts
        return Judged(result, early, watch.ended, self._early.audit, watch.alpha)

    def _measure(self, case: Case, watch: Watch | None) -> Measurement | SaeGuardError:
        from sae_guard.engine import Intervention, measure, measure_until

        spec = case.spec
        try:
            # The tests of the contract may be deselected; what they hold is not.
            for contract in () if case.control else get_args(Contract):
                self.check(case, contract)
            sae, hooks = self.sae(case), (case.hook, case.hook_out)
            asked: dict[str, Any] = {
                "batch_size": self._batch_size,
                "reference": self._reference,
                "random_error": case.random_error,
                "cache": self._cache(),
                "also": self._hooks_beside(case),
                "expect_clean_ce": spec.data.expect_clean_ce,
                "progress": self._progress,
            }
            model, corpus = self.model(spec), self.corpus(spec)
            if watch is None:
                return measure(model, sae, corpus, hooks[0], hook_out=hooks[1], **asked)
            patch = Intervention(sae, *hooks)
            return measure_until(model, patch, corpus, watch, **watch.needs, **asked)
        except SaeGuardError as error:
            return error

    def _hooks_beside(self, case: Case) -> list[tuple[str, ...]]:
        """Where other cases of the run read and write, for which the same clean run will do."""

        def shared(other: Case) -> tuple[object, ...]:
            return other.spec.model, other.spec.data, other.spec.file.parent

        alike = [other for other in self._cases() if shared(other) == shared(case)]
        places = [tuple(filter(None, (other.hook, other.hook_out))) for other in alike]
        return list(dict.fromkeys(places))

    def _load_model(self, model: Any, base: Path) -> LanguageModel:
        from sae_guard.model import load_model

        return load_model(
            model.path_or_name(base),
            dtype=model.dtype,
            processing=model.processing,
            revision=model.revision,
            # Spread over several devices it is on none.
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
        except LoadError as error:  # kept: each test of the case asks anew
            return error

    def _look(self, spec: Spec, hook: str) -> ActivationStats:
        from sae_guard.engine import activation_stats

        return activation_stats(
            self.model(spec),
            self.corpus(spec),
            hook,
            batch_size=self._batch_size,
            cache=self._cache(),
        )


def pick_device(requested: str, worker: int) -> str:
    """The device for the worker of this number (0 where there is one process).

    ``auto`` is CUDA, else MPS, else the CPU; without an index, workers take the GPUs in turn.

    Raises:
        SetupError: The machine has no such device.
    """
    import torch

    gpus = torch.cuda.device_count()
    if requested == "auto":
        requested = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    if requested == "mps" and not torch.backends.mps.is_available():
        raise SetupError("device mps: this machine has no MPS device")
    if requested.startswith("cuda"):
        index = int(requested[5:]) if ":" in requested else worker % max(gpus, 1)
        if index >= gpus:
            raise SetupError(f"device {requested}: this machine has {gpus} CUDA devices")
        return f"cuda:{index}"
    return requested


def control_sae(case: Case, bench: Workbench) -> SAE:
    """The control; raises whatever measuring the checkpoint of a baseline does."""
    from sae_guard.gate.cases import PERMUTED, RANDOM
    from sae_guard.sae import controls

    if case.control == PERMUTED:
        return controls.permuted_decoder(bench.sae(case.itself))
    if case.control == RANDOM:
        l0 = bench.measurement(case.itself)["l0"]
        d_sae, seen = bench.sae(case.itself).d_sae, bench.seen(case)
        k = min(max(1, round(l0)), d_sae)
        some = seen.some.to(bench.device)
        return controls.random_directions(some, seen.mean, d_sae=d_sae, k=k)
    if case.control == "mean":
        return controls.mean_sae(bench.seen(case).mean).to(bench.device)
    make = {"identity": controls.identity_sae, "zero": controls.zero_sae}[case.control]
    return make(bench.model(case.spec).width(case.hook)).to(bench.device)
