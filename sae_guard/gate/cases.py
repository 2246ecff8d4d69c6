"""What is measured once and judged per threshold: a checkpoint at a spec, or a control. No torch
here."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.checkpoints.reference import Checkpoint
from sae_guard.core.metrics import ON_REQUEST, metric
from sae_guard.core.pareto import Pareto
from sae_guard.core.report import CaseRef
from sae_guard.core.thresholds import Threshold
from sae_guard.specs import Spec

CONTROLS: Mapping[str, tuple[Threshold, ...]] = {
    # The patch of the identity changes no bit of the activation, so neither of any logit; the
    # tolerance is for devices whose kernels do not repeat themselves.
    "identity": (
        Threshold("kl", max=1e-6, file="controls"),
        Threshold("reconstruction_score", max=1 + 1e-4, min=1 - 1e-4, file="controls"),
    ),
    "zero": (Threshold("reconstruction_score", max=1e-5, min=-1e-5, file="controls"),),
    "mean": (
        Threshold("reconstruction_score[mean]", max=1e-5, min=-1e-5, file="controls"),
        Threshold("explained_variance", max=1e-5, min=-1e-5, file="controls"),
    ),
}
"""SAEs whose numbers are known beforehand, and the thresholds that hold them."""

PERMUTED, RANDOM = BASELINES = ("permuted decoder", "random directions")
"""SAEs made of a checkpoint, whose numbers are shown beside its own."""


@dataclass(frozen=True)
class Case:
    """One checkpoint (or control) at one spec: what is measured once and judged per threshold."""

    spec: Spec
    label: str
    checkpoint: Checkpoint | None
    """None for a control that is made of none."""
    thresholds: tuple[Threshold, ...]
    sae: SaeOptions = NOTHING_SAID
    """What the spec, the command line and a registry say of the SAE."""
    control: str = ""
    """Which of `CONTROLS` or `BASELINES` it is; empty for the checkpoint itself."""
    pareto: Pareto | None = None
    """That no record may dominate it."""
    compared: bool = False
    """Whether controls are asked for beside the checkpoint."""

    @property
    def ref(self) -> CaseRef:
        """Its name in reports."""
        return CaseRef(self.spec.spec_file, self.spec.name, self.label)

    @property
    def hook_out(self) -> str | None:
        """What a transcoder replaces; a control that is made of no checkpoint reads it."""
        return self.spec.hook_out if self.checkpoint else None

    @property
    def hook(self) -> str:
        """What is read."""
        return self.spec.hook if self.checkpoint else self.spec.hook_out or self.spec.hook

    @property
    def random_error(self) -> bool:
        """Whether the error of the SAE is compared with a random one: also for what the spec asks
        of the next version, which is compared with the record of this one."""
        own = self.checkpoint is not None and not self.control
        pareto = self.pareto or (self.spec.pareto if own else None)
        thresholds = (*self.thresholds, *(self.spec.thresholds if own else ()))
        names = [threshold.target.metric for threshold in thresholds]
        names += [pareto.x, pareto.y] if pareto else []
        asked = any(metric(name).columns & ON_REQUEST.keys() for name in names)
        return asked or (self.compared and not self.control)

    @property
    def baselines(self) -> tuple[Case, ...]:
        """What is measured beside the checkpoint."""
        if not self.compared:
            return ()
        # Of a transcoder, no direction that is read belongs to one that is written.
        names = BASELINES if self.hook_out is None else (PERMUTED,)
        return tuple(
            replace(self, label=f"{self.label}, {name}", control=name, thresholds=(), pareto=None)
            for name in names
        )

    @property
    def itself(self) -> Case:
        """Of a baseline, the case of the checkpoint that it is made of."""
        return replace(self, control="")

    @property
    def key(self) -> str:
        """Equal for cases that share one measurement, whatever their thresholds."""
        spec = self.spec
        parts = {
            "model": spec.model.model_dump(mode="json"),
            "hook": [self.hook, self.hook_out],
            "data": spec.data.model_dump(mode="json"),
            "sae": self.sae.model_dump(mode="json"),
            "base": os.path.realpath(spec.file.parent),
            "checkpoint": [os.path.realpath(self.checkpoint.path), self.checkpoint.name]
            if self.checkpoint
            else None,
            "control": self.control,
            "random_error": self.random_error,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
