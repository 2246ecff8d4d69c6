"""The options of a gate run, the same for every shell. Imports nothing heavy."""

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
"""Default size limit of the cache, in GiB."""

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICES = "auto, cpu, mps, cuda, cuda:N"
"""Allowed devices: as a pattern, and in words for messages."""


def number_or_text(text: str) -> float | str:
    """Return the number in the text; without one, the text."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class EarlyOptions:
    """Options of early verdicts, which may end a measurement early; off by default."""

    never: bool = False
    """True to measure the whole token set even where the spec says ``fast``."""
    fast: bool = False
    """True to stop as soon as every threshold has an early verdict."""
    alpha: float | None = None
    """Chance that an early verdict differs from the final one; None for that of the spec."""
    audit: bool = False
    """True to measure all sequences nevertheless, and check the early verdicts."""
    max_seconds: float | None = None
    """Time limit of a measurement; None for no limit."""
    max_sequences: int | None = None
    """Number of sequences after which a measurement ends; None for no limit."""


@dataclass(frozen=True)
class GateOptions:
    """Options of a run: checkpoints, specs, device, cache, baseline and record."""

    root: Path
    """Root folder of the project."""
    here: Path
    """Folder that relative paths of the user start from."""
    checkpoints: tuple[str, ...] = ()
    """Paths, globs and references; without any, each spec gates its own default checkpoint."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Name of a member → path or reference of its checkpoint, beside ``checkpoints``."""
    release_root: str | None = None
    """Folder of the release: the path below it is the name of a member."""
    specs: tuple[str, ...] = ()
    """Files or names of specs; without any, all specs of the project."""
    spec_globs: tuple[str, ...] = SPECS
    """Globs of the project's spec files, relative to the root folder."""
    hook: str | None = None
    """``HOOK``, or ``HOOK:HOOK_OUT`` for transcoders, of checkpoints that do not declare it."""
    sae: Mapping[str, Any] = field(default_factory=dict)
    """Options for loading the SAEs, with the keys of the `sae` block of a spec."""
    device: str = "auto"
    batch_size: int | None = None
    """Token windows per forward pass; None for the default of the device."""
    reference: bool = False
    """True to run the whole model instead of the blocks after the hook point, as an audit."""
    cache: str | None = None
    """Folder of the cache, or ``off``; None for the default folder."""
    cache_gib: float = CACHE_GIB
    """Size limit of the cache, in GiB."""
    controls: bool = False
    """True to measure controls and null models beside the checkpoints."""
    diagnose: bool = False
    """True to examine every checkpoint for mistakes in its options, even if it passes."""
    early: EarlyOptions = EarlyOptions()
    baseline: str | None = None
    """Recorded version to compare with; `history.NO_VERSION` before the first version."""
    record: str | None = None
    """Name of the version to record; None to record nothing."""
    history: str | None = None
    """Folder or URL of the records, relative to the root folder; None for the default one."""

    @property
    def gates(self) -> bool:
        """True where the options name checkpoints or specs, that is, ask for a gate."""
        return bool(self.checkpoints or self.members or self.specs)

    @property
    def is_one_version(self) -> bool:
        """True where all checkpoints are members of one version: it is recorded, or compared."""
        return self.record is not None or self.baseline is not None
