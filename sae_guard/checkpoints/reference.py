"""What a user writes → checkpoints: paths and globs, ``path#name``, ``hf://``, ``sae_lens://``.

``sae_lens://release/id`` is what SAELens's list of releases calls an SAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_guard.checkpoints import hub
from sae_guard.checkpoints.locate import find, labels
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
from sae_guard.errors import SetupError, allowed
from sae_guard.files import expanded


@dataclass(frozen=True)
class Checkpoint:
    """One SAE: where its files are, and what is known of it beside them."""

    path: Path
    name: str | None = None
    """Which SAE, where a file holds several."""
    origin: str | None = None
    """``hf://organisation/repository/path@commit`` of what was downloaded."""
    options: SaeOptions = NOTHING_SAID
    """What a registry of releases says of it."""

    def __str__(self) -> str:
        return (self.origin or str(self.path)) + (f"#{self.name}" if self.name else "")


def resolve(text: str, base: Path) -> list[Checkpoint]:
    """The checkpoints that ``text`` names; relative paths start from ``base``.

    Raises:
        SetupError: It names none.
        InfrastructureError: It has to be downloaded and cannot be.
    """
    options = NOTHING_SAID
    if text.startswith(PREFIX):
        text, options = look_up(text)
    if text.startswith(hub.PREFIX):
        found = hub.fetch(text)
        return [Checkpoint(found.path, found.name, found.origin, options)]
    pattern, name = _split(text, base)
    return [Checkpoint(path, name) for path in find(pattern, base)]


def _split(text: str, base: Path) -> tuple[str, str | None]:
    """Path and name; a path may hold the sign itself."""
    path, sign, name = text.rpartition("#")
    if not sign or not path or not name or (base / expanded(text)).exists():
        return text, None
    return path, name


def labels_of(checkpoints: Sequence[Checkpoint]) -> dict[Checkpoint, str]:
    """A name per checkpoint for node ids."""
    by_path = labels([checkpoint.path for checkpoint in checkpoints])
    return {
        checkpoint: by_path[checkpoint.path] + (f"#{checkpoint.name}" if checkpoint.name else "")
        for checkpoint in checkpoints
    }


PREFIX = "sae_lens://"


def look_up(reference: str) -> tuple[str, SaeOptions]:
    """The place on the hub, and the facts of which the list is the only source.

    Raises:
        SetupError: SAELens is not installed, or lists no such release or SAE.
    """
    try:
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError as error:
        raise SetupError(
            f"{reference} needs SAELens 6, which is not installed here ({error}): "
            "pip install sae-lens, or write hf://organisation/repository/path"
        ) from error
    release_name, _, sae_id = reference.removeprefix(PREFIX).partition("/")
    releases: dict[str, Any] = get_pretrained_saes_directory()
    if release_name not in releases:
        raise SetupError(f"{reference}: no release {release_name!r}; "
                         + allowed(release_name, releases))  # fmt: skip
    release = releases[release_name]
    if sae_id not in release.saes_map:
        raise SetupError(
            f"{reference}: no SAE {sae_id!r} in it; {allowed(sae_id, release.saes_map)}"
        )
    path = str(release.saes_map[sae_id]).strip("/")
    place = f"hf://{release.repo_id}" + (f"/{path}" if path not in ("", ".") else "")
    said: dict[str, Any] = {}
    if sae_id in release.norm_scaling_factor:
        said["scale"] = float(release.norm_scaling_factor[sae_id])
    normalize = (release.config_overrides or {}).get("normalize_activations")
    if normalize is not None:
        said["normalize"] = normalize
    return place, SaeOptions(**said)
