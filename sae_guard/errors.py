"""Errors that sae_guard raises, by their cause.

SaeGuardError
├── SetupError            the spec, the data or the model is at fault
│   └── SpecError         … at a line of a spec file
├── LoadError             the checkpoint is unreadable, ambiguous or does not fit
├── UndefinedMetricError  the numbers do not define the metric (0/0, NaN, too few tokens)
└── InfrastructureError   memory, device, network, a lost worker
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

Cause = Literal["setup", "load", "infrastructure"]
Contract = Literal[
    "readable", "keys", "shapes", "finite", "activation", "threshold", "scale", "metadata",
    "deterministic", "batch_mates",
]  # fmt: skip
"""Parts of the load contract, which are checked before anything is measured, in this order; each is
a test of its own."""

Option = Literal[
    "spec", "hook", "device", "batch_size", "cache", "controls", "diagnose", "record", "baseline",
    "fast", "alpha", "audit", "max_seconds", "max_sequences",
    "architecture", "k", "pre_bias", "normalize", "scale", "model", "allow_loosen",
    "member", "root",
]  # fmt: skip
"""Name of an option of the user. Each shell (pytest, the command line, Python) spells it in its own
way, so that no other module writes the spelling of an option into a message."""


class SaeGuardError(Exception):
    """Base class of all errors that sae_guard raises on purpose."""

    cause: ClassVar[Cause] = "setup"

    def __init__(self, message: str, *, options: tuple[Option, ...] = ()) -> None:
        super().__init__(message)
        self.options = options
        """Options that caused the error or would avoid it; shells name them after the message."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error for other processes; `__init__` of subclasses takes other arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


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
    """Return the end of an error message about a wrong name: similar names, then all allowed names.

    Args:
        name: Wrong name.
        names: Allowed names.
        limit: Number of allowed names that are listed, at most.
    """
    names = sorted(set(names))
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    listed = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    return (f"did you mean {' or '.join(similar)}? " if similar else "") + f"allowed: {listed}"


def with_options(message: str, options: Iterable[Option], spellings: Mapping[Option, str]) -> str:
    """Append options to a message, in parentheses, in the spelling of a shell.

    Args:
        message: The message.
        options: Options that it is about.
        spellings: Spelling of each option that the shell has; the others are left out.
    """
    words = ", ".join(spellings[option] for option in options if option in spellings)
    return f"{message} ({words})" if words else message
