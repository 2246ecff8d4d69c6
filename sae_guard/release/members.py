"""Name the members of a release: what an SAE is within it, the same from version to version.

The name of a member depends on its own reference only, never on what else runs beside it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from sae_guard.checkpoints.locate import SUFFIXES, find, is_checkpoint
from sae_guard.checkpoints.reference import Checkpoint, NamedBy, resolve
from sae_guard.errors import Option, SetupError
from sae_guard.files import expanded
from sae_guard.release.manifest import FILE_NAME, Manifest, load, nearest


@dataclass(frozen=True)
class Member:
    """An SAE of a release: its name within the release, and its checkpoint."""

    name: str
    named_by: NamedBy
    checkpoint: Checkpoint
    manifest: Manifest | None = None
    """Manifest that lists it; None without one."""


def members(
    references: Sequence[str],
    base: Path,
    *,
    named: Mapping[str, str] | None = None,
    root: Path | None = None,
) -> list[Member]:
    """Return the members that references name, each file or folder once.

    Args:
        references: Paths, globs, ``path#name``, ``hf://…`` or ``sae_lens://…``. A folder with a
            `sae_release.yaml` stands for all members of the manifest.
        base: Folder that relative paths start from.
        named: Name → reference of single checkpoints that the user names.
        root: Root folder of the release, below which the path is the name.

    Raises:
        SetupError: A reference names no checkpoint, or several where one is named; a manifest
            does not list a checkpoint below it.
        SpecError: A manifest is malformed.
        InfrastructureError: A checkpoint cannot be downloaded.
    """
    all_members: list[Member] = []
    for name, reference in (named or {}).items():
        checkpoint = _only(resolve(reference, base), f"{name}={reference}", options=("member",))
        all_members.append(Member(name, "option", checkpoint))
    manifests = _Manifests()
    for reference in references:
        manifest_file = base / expanded(reference) / FILE_NAME
        if manifest_file.is_file():
            all_members.extend(of_manifest(load(manifest_file)))
        else:
            all_members.extend(_named(c, root, manifests) for c in resolve(reference, base))
    return _once_each(all_members)


def below(folder: Path) -> list[Member]:
    """Return all checkpoints below a folder, named by their paths, sorted.

    Raises:
        SetupError: There is none, or two have one name.
    """
    paths = [path for path in find("**", folder) if is_checkpoint(path)]
    members = _once_each([_below(Checkpoint(path), folder) for path in paths])
    if not members:
        raise SetupError(f"no checkpoint below {folder}")
    for name, count in Counter(member.name for member in members).items():
        if count > 1:
            raise SetupError(f"{count} checkpoints below {folder} are named {name!r}: rename them")
    return members


def of_manifest(manifest: Manifest) -> Iterator[Member]:
    """Yield the members that a manifest lists.

    Raises:
        SetupError: One of them is no checkpoint, or several.
        InfrastructureError: A checkpoint cannot be downloaded.
    """
    for name, reference in manifest.members.items():
        try:
            checkpoints = resolve(reference, manifest.folder)
        except SetupError as error:
            raise SetupError(f"{manifest.file}: members: {name}: {error}") from None
        checkpoint = _only(checkpoints, f"{manifest.file}: members: {name}: {reference}")
        yield Member(name, "manifest", checkpoint, manifest)


def _only(
    checkpoints: Sequence[Checkpoint], subject: str, *, options: tuple[Option, ...] = ()
) -> Checkpoint:
    if len(checkpoints) != 1:
        raise SetupError(
            f"{subject} names {len(checkpoints)} checkpoints, expected one", options=options
        )
    return checkpoints[0]


class _Manifests:
    """Manifests at or above checkpoints; each is read, and its members are located, once."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[Manifest, dict[tuple[str, str | None], str]]] = {}

    def member(self, checkpoint: Checkpoint, path: Path) -> Member | None:
        """Return the member that the nearest manifest lists; None without a manifest.

        Raises:
            SetupError: The manifest does not list the checkpoint.
        """
        if (file := nearest(path)) is None:
            return None
        if file not in self._read:
            manifest = load(file)
            self._read[file] = manifest, dict(_local_members(manifest))
        manifest, names = self._read[file]
        name = names.get(identity(checkpoint))
        if name is None:
            raise SetupError(
                f"{checkpoint} is below {file}, which does not list it; allowed: "
                f"{', '.join(manifest.members)}; add it to the manifest, or name it",
                options=("member",),
            )
        return Member(name, "manifest", checkpoint, manifest)


def _local_members(manifest: Manifest) -> Iterator[tuple[tuple[str, str | None], str]]:
    """Yield identity and name of each member that is there; downloads are no files below it."""
    # The first of two names of one checkpoint counts, so it comes last.
    for name, reference in reversed(manifest.members.items()):
        if "://" not in reference:
            with suppress(SetupError):  # a member that is not there is not gated, which is reported
                for checkpoint in resolve(reference, manifest.folder):
                    yield identity(checkpoint), name


def _named(checkpoint: Checkpoint, root: Path | None, manifests: _Manifests) -> Member:
    """Name a checkpoint by the first rule that applies."""
    if checkpoint.published_path is not None:
        if checkpoint.published_path:
            return Member(_with_name(checkpoint.published_path, checkpoint), "hub", checkpoint)
        # The files are in a cache, whose folders are named by commits; the repository has a name.
        repository = PurePath(str(checkpoint.origin).rpartition("@")[0]).name
        return Member(_with_name(repository, checkpoint), "path", checkpoint)
    path = Path(os.path.normpath(checkpoint.path))
    if (member := manifests.member(checkpoint, path)) is not None:
        return member
    if root is not None:
        root = Path(os.path.normpath(root))
        if path != root and path.is_relative_to(root):
            return _below(checkpoint, root)
    return Member(_with_name(path.name, checkpoint), "path", checkpoint)


def _below(checkpoint: Checkpoint, root: Path) -> Member:
    path = Path(os.path.normpath(checkpoint.path)).relative_to(os.path.normpath(root))
    return Member(_with_name(path.as_posix(), checkpoint), "root", checkpoint)


def _with_name(path: str, checkpoint: Checkpoint) -> str:
    """Return the path without the suffix of weights, with the ``#name`` of the checkpoint."""
    suffix = next((s for s in reversed(SUFFIXES) if path.endswith(s)), "")
    return path.removesuffix(suffix) + (f"#{checkpoint.name}" if checkpoint.name else "")


def identity(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """Return what is equal for references to one SAE: its real path, and its name in the file."""
    return os.path.realpath(checkpoint.path), checkpoint.name


def _once_each(members: Sequence[Member]) -> list[Member]:
    """Drop repeated references to one SAE.

    Raises:
        SetupError: Manifest or user give one SAE two names.
    """
    by_identity: dict[tuple[str, str | None], Member] = {}
    for member in members:
        key = identity(member.checkpoint)
        other = by_identity.setdefault(key, member)
        if other.name == member.name:
            continue
        stated = {"manifest", "option"}
        if {other.named_by, member.named_by} <= stated:
            raise SetupError(
                f"{member.checkpoint} is named {other.name} and {member.name}; allowed: one name",
                options=("member",),
            )
        # A name that somebody states comes before one of a path, and a path before a link to it.
        if member.named_by in stated or (other.named_by not in stated and _is_link(other)):
            by_identity[key] = member
    return list(by_identity.values())


def _is_link(member: Member) -> bool:
    path = member.checkpoint.path
    return os.path.realpath(path) != os.path.abspath(path)
