"""Records of a release, and the checkpoints that they should be of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_guard.errors import SetupError
from sae_guard.files import expanded

if TYPE_CHECKING:
    from sae_guard.checkpoints.reference import Checkpoint
    from sae_guard.history import Recorded
    from sae_guard.release.members import Member


def checkpoints_of_release(
    records: Sequence[Recorded], members: Sequence[Member]
) -> list[Checkpoint | SetupError]:
    """Return the checkpoint of each record, by the name of its member, or why there is none."""
    return [_named(recorded.member, members) for recorded in records]


def checkpoint_of_record(
    recorded: Recorded, references: Sequence[str], folder: Path, root: Path | None
) -> Checkpoint:
    """Return the checkpoint of a record: the only one, whatever its name, or the one of its name.

    Args:
        recorded: The record.
        references: References to checkpoints, or a folder with a manifest.
        folder: Folder that relative paths start from.
        root: Root folder of the release, below which the path is the name.

    Raises:
        SaeGuardError: There is no such checkpoint, or there are several.
    """
    from sae_guard.checkpoints.reference import resolve
    from sae_guard.release.manifest import FILE_NAME
    from sae_guard.release.members import members

    if not any((folder / expanded(text) / FILE_NAME).is_file() for text in references):
        # The checkpoint needs no name, so a manifest above it need not list it.
        checkpoints = [c for text in references for c in resolve(text, folder)]
        if len(checkpoints) == 1:
            return checkpoints[0]
    candidates = members(references, folder, root=root)
    if len(candidates) == 1:
        return candidates[0].checkpoint
    checkpoint = _named(recorded.member, candidates)
    if isinstance(checkpoint, SetupError):
        raise SetupError(
            f"--sae {' '.join(references)} names {len(candidates)} checkpoints, expected one, or "
            f"one that is named {recorded.member}: {checkpoint}"
        )
    return checkpoint


def unrecorded(records: Sequence[Recorded], members: Sequence[Member]) -> list[Member]:
    """Return the members that no record is of."""
    names = {recorded.member for recorded in records}
    return [member for member in members if member.name not in names]


def _named(name: str, members: Sequence[Member]) -> Checkpoint | SetupError:
    """Return the checkpoint with this name, or the reason why there is none."""
    candidates = [member.checkpoint for member in members if member.name == name]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        paths = ", ".join(map(str, candidates))
        return SetupError(
            f"{len(candidates)} checkpoints are named {name}: {paths}; name the folder of their "
            "manifest, or the root folder of the release",
            options=("root",),
        )
    names = ", ".join(sorted({member.name for member in members}))
    return SetupError(
        f"no checkpoint is named {name}; there are: {names}; name the folder of the manifest, the "
        "root folder of the release, or all checkpoints",
        options=("root",),
    )
