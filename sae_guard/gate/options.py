"""What a run of the gate is asked for, whichever shell asks. Imports nothing that is heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_guard.gate.project import SPECS

ALPHA = 0.001
"""Default chance that an early verdict differs from that on the whole token set."""

CACHE_GIB = 20.0
"""Default limit of the cache."""

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICES = "auto, cpu, mps, cuda, cuda:N"
"""The devices that can be asked for, as a pattern and in words."""


@dataclass(frozen=True)
class EarlyOptions:
    """Whether verdicts may be reached before the whole token set is measured; by default not."""

    never: bool = False
    """Whether the whole token set is measured even where the spec allows less."""
    fast: bool = False
    alpha: float | None = None
    audit: bool = False
    """Whether to run to the end all the same, and say whether the early verdicts hold."""
    max_seconds: float | None = None
    max_sequences: int | None = None


@dataclass(frozen=True)
class GateOptions:
    """What is gated, by which specs, on what, and what is kept of it."""

    root: Path
    """Root folder of the project."""
    here: Path
    """Folder that relative paths of the user start from."""
    checkpoints: tuple[str, ...] = ()
    """Paths, globs and references; without any, each spec gates its own default checkpoint."""
    specs: tuple[str, ...] = ()
    """Files or names of specs; without any, all of the project."""
    spec_globs: tuple[str, ...] = SPECS
    hook: str | None = None
    """``HOOK``, or ``HOOK:HOOK_OUT`` of transcoders, of checkpoints that do not name it."""
    sae: Mapping[str, Any] = field(default_factory=dict)
    """What the user says of the SAEs: keys of the `sae` block of a spec."""
    device: str = "auto"
    batch_size: int | None = None
    reference: bool = False
    """Whether to run the whole model for everything."""
    cache: str | None = None
    """Folder, or ``off``; None for the usual one."""
    cache_gib: float = CACHE_GIB
    controls: bool = False
    diagnose: bool = False
    """Whether to try what else a checkpoint could be, whatever its numbers."""
    early: EarlyOptions = EarlyOptions()
    baseline: str | None = None
    """Recorded version that changes are since; `history.NO_VERSION` where there is none yet."""
    record: str | None = None
    """Name of the version that is recorded."""
    history: str | None = None
    """Folder or URL of the records, from the root folder; None for the usual one."""

    @property
    def gates(self) -> bool:
        """Whether a gate is asked for at all."""
        return bool(self.checkpoints or self.specs)
