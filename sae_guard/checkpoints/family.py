"""What a format is: how it is recognised, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_guard.checkpoints.options import SaeOptions
from sae_guard.checkpoints.tensor_files import sha256
from sae_guard.errors import LoadError, allowed
from sae_guard.sae import SAE, SaeSource


@dataclass(frozen=True)
class Opened:
    """The files of a checkpoint, read and not yet understood."""

    path: Path
    """What the user named."""
    weights: Path
    entries: Mapping[str, Any]
    """The top level of the weights file."""
    config_file: Path | None = None
    config: Mapping[str, Any] | None = None
    name: str | None = None
    """Which of several SAEs in the file: what follows the # in what the user named."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The entries, which must all be tensors; raises `LoadError`."""
        others = {n: v for n, v in self.entries.items() if not isinstance(v, Tensor)}
        if others or not self.entries:
            named = [f"{name!r} ({type(value).__name__})" for name, value in others.items()]
            raise LoadError(
                f"{self.weights}: expected a state dict of tensors only, but it holds "
                f"{', '.join(named[:8]) or 'nothing'}",
                "keys",
            )
        return dict(self.entries)

    def chosen(self, names: Iterable[str]) -> str:
        """Which of several SAEs is meant: the only one, or the one that `name` says.

        Raises:
            LoadError: It is not said, or there is none of that name.
        """
        names = tuple(names)
        if self.name is None and len(names) == 1:
            return names[0]
        if self.name in names:
            return str(self.name)
        if self.name is None:
            raise LoadError(
                f"{self.path} holds {len(names)} SAEs; say which: "
                + " or ".join(f"{self.path}#{name}" for name in names[:8])
            )
        raise LoadError(f"{self.path} has no SAE {self.name!r}; {allowed(self.name, names)}")

    def source(self, family: str, *assumptions: str, **declared: Any) -> SaeSource:
        """The provenance, with what is assumed and what the checkpoint declares of itself."""
        files = [file for file in (self.config_file, self.weights) if file is not None]
        stored = {str(t.dtype).removeprefix("torch.") for t in self.entries.values()
                  if isinstance(t, Tensor)}  # fmt: skip
        return SaeSource(
            path=str(self.path) + (f"#{self.name}" if self.name else ""),
            format=family,
            files={file.name: sha256(file) for file in files},
            declared={"stored_dtype": ", ".join(sorted(stored))}
            | {name: value for name, value in declared.items() if value is not None},
            assumptions=assumptions,
        )


@dataclass(frozen=True)
class Family:
    """A format: one module, one line in `load`."""

    name: str
    recognised_by: str
    holds: str
    """Which SAEs it holds, and what of them has to be said in options."""
    matches: Callable[[Opened], bool]
    read: Callable[[Opened, SaeOptions], SAE]
    several: bool = False
    """Whether a file may hold several SAEs, told apart by `Opened.name`."""
