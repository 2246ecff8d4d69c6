"""What can go wrong, by whose fault it is.

SaeGuardError
├── SetupError            the spec, the data or the model is at fault
│   └── SpecError         … at a line of a spec file
├── LoadError             the checkpoint is unreadable, ambiguous or does not fit
├── UndefinedMetricError  the numbers do not define the metric (0/0, NaN, too few tokens)
└── InfrastructureError   memory, device, network, a lost worker
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Literal

Cause = Literal["setup", "load", "infrastructure"]
Contract = Literal[
    "readable", "keys", "shapes", "finite", "activation", "threshold", "scale", "metadata",
    "deterministic", "batch_mates",
]  # fmt: skip
"""What a checkpoint is held to before anything is measured; a test each, in this order."""

Option = Literal[
    "spec", "hook", "device", "batch_size", "cache", "controls", "diagnose", "record", "baseline",
    "fast", "alpha", "audit", "max_seconds", "max_sequences",
    "architecture", "k", "pre_bias", "normalize", "scale", "model", "allow_loosen",
]  # fmt: skip
"""What a user can set. Each shell (pytest, the command line, Python) spells it in its own way, so
that nothing below the shells writes an option's name into a message."""


class SaeGuardError(Exception):
    """Root of every error that sae_guard raises on purpose."""

    cause: ClassVar[Cause] = "setup"

    def __init__(self, message: str, *, options: tuple[Option, ...] = ()) -> None:
        super().__init__(message)
        self.options = options
        """Those that the message is about, or that would help; shells name them after it."""


class SetupError(SaeGuardError):
    """The spec, the data or the model is at fault, not the SAE."""


class SpecError(SetupError):
    """A spec file is malformed; the message starts with ``file:line``."""

    def __init__(self, message: str, *, file: str, line: int) -> None:
        super().__init__(f"{file}:{line}: {message}")
        self.file = file
        self.line = line


class LoadError(SaeGuardError):
    """The checkpoint cannot be read exactly: unreadable, ambiguous, or of the wrong shape."""

    cause: ClassVar[Cause] = "load"

    def __init__(
        self, message: str, contract: Contract = "readable", *, options: tuple[Option, ...] = ()
    ) -> None:
        super().__init__(message, options=options)
        self.contract: Contract = contract


class UndefinedMetricError(SaeGuardError):
    """The measured sums do not define the metric; it is not 0, not 1 and not infinite."""


class InfrastructureError(SaeGuardError):
    """Memory, device, network or a lost worker: nothing was learnt about the SAE."""

    cause: ClassVar[Cause] = "infrastructure"


def allowed(name: str, names: Iterable[str], *, limit: int = 8) -> str:
    """The tail of an error message: the names nearest to ``name``, then what is allowed."""
    names = sorted(set(names))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    listed = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"allowed: {listed}"
