"""`Case`: a checkpoint at a spec, or a control. It is measured once and judged per threshold.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.checkpoints.reference import Checkpoint, NamedBy
from sae_guard.core.metrics import ON_REQUEST, metric
from sae_guard.core.pareto import Pareto
from sae_guard.core.report import CaseRef
from sae_guard.core.thresholds import Threshold
from sae_guard.release.manifest import Manifest
from sae_guard.release.pairing import Identity
from sae_guard.specs import Spec

CONTROLS: Mapping[str, tuple[Threshold, ...]] = {
    # The patch of the identity changes no bit of the activation, so neither of any logit; the
    # tolerance is for devices whose kernels do not repeat themselves.
    "identity": (
        Threshold("kl", max=1e-6, file="controls"),
        Threshold("reconstruction_score", max=1 + 1e-4, min=1 - 1e-4, file="controls"),
    ),
    # Its patched run is the zero-ablated one: what is left of the numerator is rounding.
    "zero": (Threshold("reconstruction_score", max=1e-5, min=-1e-5, file="controls"),),
    "mean": (
        Threshold("reconstruction_score[mean]", max=1e-5, min=-1e-5, file="controls"),
        Threshold("explained_variance", max=1e-5, min=-1e-5, file="controls"),
    ),
}
"""Name of a control, an SAE whose numbers are known beforehand → the thresholds that hold it."""

PERMUTED, RANDOM = BASELINES = ("permuted decoder", "random directions")
"""Null models: SAEs made of a checkpoint, whose numbers are shown beside its own."""


@dataclass(frozen=True)
class Case:
    """One checkpoint, or one control, at one spec."""

    spec: Spec
    member: str
    """Name of the SAE in reports, as `CaseRef` has it: such as ``v1`` or ``control:zero``."""
    checkpoint: Checkpoint | None
    """The checkpoint; None for a control, which is made of none."""
    thresholds: tuple[Threshold, ...]
    sae: SaeOptions = NOTHING_SAID
    """Options for loading the SAE, from the spec, the user and the registry."""
    control: str = ""
    """Name of the control or null model; empty for the checkpoint itself."""
    pareto: Pareto | None = None
    """Threshold that no record may dominate the checkpoint."""
    compared: bool = False
    """True where controls are measured beside the checkpoint."""
    named_by: NamedBy = "path"
    """Rule that gave the member its name."""
    manifest: Manifest | None = None
    """Manifest that lists the member; None without one."""
    alone: bool = True
    """True if no other checkpoint of the run is of this spec."""
    new_since: str = ""
    """Version in which the member has no earlier self; empty for one that is not new."""

    @property
    def ref(self) -> CaseRef:
        """Name of the case in node ids, reports and records."""
        return CaseRef(self.spec.spec_file, self.spec.name, self.member)

    @property
    def earlier_name(self) -> str:
        """Name of the member in the earlier version; another one only if its manifest says so."""
        formerly = self.manifest.formerly if self.manifest else {}
        return formerly.get(self.member, self.member)

    @property
    def identity(self) -> Identity:
        """Return what decides which earlier member the case is compared with."""
        return Identity(self.ref.spec, self.member, self.named_by)

    @property
    def hook_out(self) -> str | None:
        """Hook point that a transcoder replaces; None for an SAE, and for a control."""
        return self.spec.hook_out if self.checkpoint else None

    @property
    def hook(self) -> str:
        """Hook point that the SAE reads. A control stands where the reconstruction goes."""
        return self.spec.hook if self.checkpoint else self.spec.hook_out or self.spec.hook

    @property
    def random_error(self) -> bool:
        """True where KL with a random error is measured too, for metrics that are made of it.

        Also where only a later version needs it: that is compared with the record of this one.
        """
        own = self.checkpoint is not None and not self.control
        pareto = self.pareto or (self.spec.pareto if own else None)
        thresholds = (*self.thresholds, *(self.spec.thresholds if own else ()))
        names = [threshold.target.metric for threshold in thresholds]
        names += [pareto.x, pareto.y] if pareto else []
        bounded = any(metric(name).columns & ON_REQUEST.keys() for name in names)
        return bounded or (self.compared and not self.control)

    @property
    def baselines(self) -> tuple[Case, ...]:
        """Null models to measure beside the checkpoint."""
        if not self.compared:
            return ()
        # A transcoder writes another space than it reads: directions of the one say nothing there.
        names = BASELINES if self.hook_out is None else (PERMUTED,)
        return tuple(
            replace(self, member=f"{self.member}, {name}", control=name, thresholds=(), pareto=None)
            for name in names
        )

    @property
    def itself(self) -> Case:
        """Case of the checkpoint that a null model is made of."""
        return replace(self, control="")

    @property
    def key(self) -> str:
        """Hash that is equal for cases that share one measurement, whatever their thresholds."""
        spec = self.spec
        parts = {
            "model": spec.model.model_dump(mode="json"),
            "hook": [self.hook, self.hook_out],
            "data": spec.data.model_dump(mode="json"),
            "sae": self.sae.model_dump(mode="json"),
            # Real paths: two links to one checkpoint share its measurement.
            "base": os.path.realpath(spec.file.parent),
            "checkpoint": [os.path.realpath(self.checkpoint.path), self.checkpoint.name]
            if self.checkpoint
            else None,
            "control": self.control,
            "random_error": self.random_error,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
