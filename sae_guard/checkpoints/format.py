"""What a checkpoint format is: its files, what it declares, how it is read; no torch.

Declaring and listing formats must not import torch, so the modules of formats import it for types,
and at run time within the functions that read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sae_guard.checkpoints.declarations import Declaration
from sae_guard.checkpoints.files import CheckpointFiles, sha256
from sae_guard.checkpoints.options import SaeOptions
from sae_guard.errors import LoadError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from sae_guard.sae import SAE, SaeSource


@dataclass(frozen=True)
class FolderLayout:
    """The files of a checkpoint that is a folder."""

    config: str | None
    """Relative to the folder, as the weights are; None where there is none."""
    weights: str
    rank: int = 0
    """Where a folder holds the files of several layouts, the lowest rank is tried first; of equal
    ranks, the one of the format that stands first in the list."""

    def files_in(self, folder: Path) -> tuple[Path, Path | None] | None:
        """Return the weights and the config; None if one is missing."""
        config = None if self.config is None else folder / self.config
        if not (folder / self.weights).is_file() or (config is not None and not config.is_file()):
            return None
        return folder / self.weights, config


@dataclass(frozen=True)
class ConfigBeside:
    """Where the config lies of weights that are named by themselves."""

    config: str
    """Its name, in which ``{stem}`` stands for the name of the weights without their suffix."""
    weights: str
    """A pattern for the folder and the name of the weights, ``folder/name``."""
    above: tuple[int, ...] = (0,)
    """How many folders above the weights, the nearest first."""
    rank: int = 0
    """As that of a `FolderLayout`."""

    def file_of(self, weights: Path) -> Path | None:
        """Return the config of these weights; None if they have none of this kind."""
        if not re.fullmatch(self.weights, f"{weights.parent.name}/{weights.name}", re.DOTALL):
            return None
        folders = (weights.parent, *weights.parent.parents)
        near = [folders[n] for n in self.above if n < len(folders)]
        configs = (folder / self.config.format(stem=weights.stem) for folder in near)
        return next((config for config in configs if config.is_file()), None)


@dataclass(frozen=True, kw_only=True)
class Opened(CheckpointFiles):
    """The files of a checkpoint, read and not yet understood."""

    entries: Mapping[str, Any]
    """The top level of the weights file."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The entries, which must all be tensors; raises `LoadError`."""
        others = {n: v for n, v in self.entries.items() if not is_tensor(v)}
        if others or not self.entries:
            named = [f"{name!r} ({type(value).__name__})" for name, value in others.items()]
            raise LoadError(
                f"{self.weights}: expected a state dict of tensors only, but it holds "
                f"{', '.join(named[:8]) or 'nothing'}",
                "keys",
            )
        return dict(self.entries)

    def chosen(self, names: Iterable[str]) -> str:
        """Return which of several SAEs is meant: the only one, or the one that `name` says.

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

    def source(
        self,
        format_name: str,
        *assumptions: str,
        declaration: Declaration | None = None,
        **declared: Any,
    ) -> SaeSource:
        """Make the provenance.

        Args:
            format_name: Name of the format, with its variant where it has several.
            assumptions: What the files do not say and the format implies.
            declaration: The model and hook points that the checkpoint says.
            declared: What else it says of itself; None where it does not say.

        Raises:
            LoadError: The weights cannot be read to be hashed.
        """
        from sae_guard.sae import SaeSource

        if declaration is not None:
            declared = {
                "model_name": declaration.model_name,
                "hook_name": declaration.hook,
                "hook_name_out": declaration.hook_out,
                **declared,
            }
        config = {} if self.config_file is None else {self.config_file.name: self.config_sha256}
        dtypes = {str(t.dtype).removeprefix("torch.") for t in self.entries.values()
                  if is_tensor(t)}  # fmt: skip
        return SaeSource(
            path=str(self.path) + (f"#{self.name}" if self.name else ""),
            format=format_name,
            files=config | {self.weights.name: sha256(self.weights)},
            declared={"stored_dtype": ", ".join(sorted(dtypes))}
            | {name: value for name, value in declared.items() if value is not None},
            assumptions=assumptions,
        )


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Say whether it is a tensor; for modules that are imported before torch."""
    from torch import Tensor

    return isinstance(value, Tensor)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A checkpoint format: a module in `formats`, and a line in the list there."""

    name: str
    recognised_by: str
    holds: str
    """Which SAEs it holds, and what of them has to be said in options."""
    folders: tuple[FolderLayout, ...] = ()
    beside: tuple[ConfigBeside, ...] = ()
    configs_above: tuple[str, ...] = ()
    """Names of other configs, beside the weights or up to two folders above: the hub is asked for
    them."""
    declare: Callable[[CheckpointFiles], Declaration | None] = lambda files: None
    """What files of this format say of model and hook point; None where their names and the config
    do not show that they are of this format. Raises `LoadError`."""
    declares_first: bool = False
    """Whether `declare` is asked before those of other formats: the name of the weights, which no
    other format uses, is enough for it, whatever the config says."""
    matches: Callable[[Opened], bool]
    """Whether the files are of this format, of which the weights are read by now."""
    read: Callable[[Opened, SaeOptions], SAE]
    """The SAE of files that match; raises `LoadError`."""
    several: bool = False
    """Whether a file may hold several SAEs, told apart by `Opened.name`."""
    refused: bool = False
    """Whether `read` only says why such files are not read."""
