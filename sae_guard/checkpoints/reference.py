"""References to checkpoints: paths and globs, ``path#name``, ``hf://``, ``sae_lens://``.

``sae_lens://release/id`` names an SAE as SAELens's list of releases does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sae_guard.checkpoints import hub
from sae_guard.checkpoints.locate import find
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded

NamedBy = Literal["manifest", "option", "hub", "root", "path"]
"""Rule that gave a member of a release its name: the first of these that applies.

``manifest``: the nearest `sae_release.yaml` at or above the checkpoint. ``option``: the user.
``hub``: the path in the repository of the hub, or the id in SAELens's list. ``root``: the path
below the root folder of the release. ``path``: the last component of the path, of which a single
SAE whose folder is named as its version has nothing else.
"""


@dataclass(frozen=True)
class Checkpoint:
    """One SAE: the path of its files, and facts about it from outside of them."""

    path: Path
    name: str | None = None
    """Name of the SAE in a file that holds several."""
    origin: str | None = None
    """``hf://organisation/repository/path@commit`` of a downloaded checkpoint."""
    published_path: str | None = None
    """Path in the repository of the hub, or id in SAELens's list; None for a local file."""
    options: SaeOptions = NOTHING_SAID
    """Options that a registry of releases states for it."""

    def __str__(self) -> str:
        return (self.origin or str(self.path)) + (f"#{self.name}" if self.name else "")


def resolve(text: str, base: Path) -> list[Checkpoint]:
    """Return the checkpoints that a reference names.

    Args:
        text: A path, a glob, ``path#name``, ``hf://…`` or ``sae_lens://…``.
        base: Folder that relative paths start from.

    Raises:
        SetupError: The reference names no checkpoint.
        InfrastructureError: The checkpoint cannot be downloaded.
    """
    options, sae_id = NOTHING_SAID, None
    if text.startswith(PREFIX):
        sae_id = text.removeprefix(PREFIX).partition("/")[2]
        text, options = look_up(text)
    if text.startswith(hub.PREFIX):
        download = hub.fetch(text)
        published_path = download.path_in_repository if sae_id is None else sae_id
        return [Checkpoint(download.path, download.name, download.origin, published_path, options)]
    pattern, name = _split(text, base)
    return [Checkpoint(path, name) for path in find(pattern, base)]


def _split(text: str, base: Path) -> tuple[str, str | None]:
    """Split ``path#name`` into path and name; an existing path may contain ``#`` itself."""
    path, sign, name = text.rpartition("#")
    if not sign or not path or not name or (base / expanded(text)).exists():
        return text, None
    return path, name


_CONFIGS = (".json", ".yaml", ".yml")
"""Suffixes of files beside the weights of a checkpoint."""


def weights_among(files: Mapping[str, str]) -> Mapping[str, str]:
    """Return the files of a checkpoint without its configs; all where there is nothing else.

    Args:
        files: Name → sha256.
    """
    weights = {name: sha256 for name, sha256 in files.items() if not name.endswith(_CONFIGS)}
    return weights or files


PREFIX = "sae_lens://"


def look_up(reference: str) -> tuple[str, SaeOptions]:
    """Look up ``sae_lens://release/id`` in SAELens's list of releases.

    Returns:
        The ``hf://`` reference, and the options that only the list states.

    Raises:
        SetupError: SAELens is not installed, or lists no such release or SAE.
    """
    try:
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError as error:
        raise SetupError(
            f"{reference} needs SAELens 6, which is not installed ({error}); run pip install "
            "sae-lens, or write hf://organisation/repository/path"
        ) from error
    release_name, _, sae_id = reference.removeprefix(PREFIX).partition("/")
    releases: dict[str, Any] = get_pretrained_saes_directory()
    if release_name not in releases:
        raise SetupError(f"{reference}: SAELens lists no release {release_name!r}; "
                         + allowed(release_name, releases))  # fmt: skip
    release = releases[release_name]
    if sae_id not in release.saes_map:
        raise SetupError(
            f"{reference}: release {release_name!r} has no SAE {sae_id!r}; "
            + allowed(sae_id, release.saes_map)
        )
    path = str(release.saes_map[sae_id]).strip("/")
    hub_reference = f"hf://{release.repo_id}" + (f"/{path}" if path not in ("", ".") else "")
    options: dict[str, Any] = {}
    if sae_id in release.norm_scaling_factor:
        options["scale"] = float(release.norm_scaling_factor[sae_id])
    normalize = (release.config_overrides or {}).get("normalize_activations")
    if normalize is not None:
        options["normalize"] = normalize
    return hub_reference, SaeOptions(**options)
