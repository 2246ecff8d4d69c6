"""Interface of a checkpoint format: its files, its declaration, its reader; no torch.

Listing formats and declaring hook points must not import torch: modules of formats import it for
type checking, and at run time only in the functions that read.
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
    """The files of a checkpoint that is a folder; paths are relative to it."""

    config: str | None
    """Path of the config; None for formats without one."""
    weights: str
    """Path of the weights."""
    rank: int = 0
    """Order in which layouts are tried, lowest first; ties are tried in the order of `FORMATS`."""

    def files_in(self, folder: Path) -> tuple[Path, Path | None] | None:
        """Return the weights and the config in the folder; None if one is missing."""
        config = None if self.config is None else folder / self.config
        if not (folder / self.weights).is_file() or (config is not None and not config.is_file()):
            return None
        return folder / self.weights, config


@dataclass(frozen=True)
class ConfigLocation:
    """Location of the config for a weights file that the user names directly."""

    config: str
    """File name of the config; ``{stem}`` is the name of the weights without their suffix."""
    weights: str
    """Regular expression for the folder and the name of the weights, ``folder/name``."""
    levels_up: tuple[int, ...] = (0,)
    """Numbers of folders to go up from the weights, nearest first; 0 is their own folder."""
    rank: int = 0
    """Order in which layouts are tried, as in `FolderLayout`."""

    def file_of(self, weights: Path) -> Path | None:
        """Return the config of the weights; None where this layout does not apply."""
        # DOTALL: the name of a file may contain a line break.
        if not re.fullmatch(self.weights, f"{weights.parent.name}/{weights.name}", re.DOTALL):
            return None
        parents = (weights.parent, *weights.parent.parents)
        folders = [parents[n] for n in self.levels_up if n < len(parents)]
        configs = (folder / self.config.format(stem=weights.stem) for folder in folders)
        return next((config for config in configs if config.is_file()), None)


@dataclass(frozen=True, kw_only=True)
class Opened(CheckpointFiles):
    """The files of a checkpoint with the content of the weights, before a format interprets it."""

    entries: Mapping[str, Any]
    """Top level of the weights file: name → tensor, number, text or container."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The entries, which must all be tensors; raises `LoadError`."""
        not_tensors = {n: v for n, v in self.entries.items() if not is_tensor(v)}
        if not_tensors or not self.entries:
            listed = [f"{name!r} ({type(value).__name__})" for name, value in not_tensors.items()]
            raise LoadError(
                f"{self.weights}: expected a state dict of tensors only, but it holds "
                f"{', '.join(listed[:8]) or 'nothing'}",
                "keys",
            )
        return dict(self.entries)

    def selected_name(self, names: Iterable[str]) -> str:
        """Return the name of the SAE to load: `name`, or the only one.

        Args:
            names: The SAEs in the file.

        Raises:
            LoadError: The reference names none of several SAEs, or one that is not in the file.
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
        """Return the provenance, with the hashes of the files.

        Args:
            format_name: Name of the format, with its variant where it has several.
            assumptions: Facts that the format implies and the files do not state.
            declaration: The declared model and hook points.
            declared: Other metadata of the checkpoint; None where it states none.

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
    """Return whether the value is a tensor; for modules that must not import torch."""
    from torch import Tensor

    return isinstance(value, Tensor)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A checkpoint format: a module in `formats`, and a line in the list there."""

    name: str
    recognised_by: str
    """Files and keys that identify the format, for the documentation."""
    holds: str
    """Kinds of SAEs in the format, and the options they need, for the documentation."""
    folders: tuple[FolderLayout, ...] = ()
    config_locations: tuple[ConfigLocation, ...] = ()
    """Locations of the config for weights that the user names directly."""
    configs_above: tuple[str, ...] = ()
    """Names of further configs, beside the weights or up to two folders above, to download too."""
    declare: Callable[[CheckpointFiles], Declaration | None] = lambda files: None
    """Function that returns the declared model and hook point; None where the names and the config
    do not identify this format. Raises `LoadError`."""
    declares_first: bool = False
    """True where `declare` goes before those of other formats: no other format uses such names of
    weights, so the config does not matter."""
    matches: Callable[[Opened], bool]
    """Function that returns whether the files, with their weights, are of this format."""
    read: Callable[[Opened, SaeOptions], SAE]
    """Function that returns the SAE of matching files; raises `LoadError`."""
    several: bool = False
    """True where a file may hold several SAEs, which `Opened.name` selects."""
    refused: bool = False
    """True where `read` only raises the reason why such files are not read."""
