"""What a user writes → checkpoints: paths and globs, ``path#name``, ``hf://``, ``sae_lens://``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_guard.checkpoints import hub, registry
from sae_guard.checkpoints.locate import find, labels
from sae_guard.checkpoints.options import NOTHING_SAID, SaeOptions
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
    if text.startswith(registry.PREFIX):
        text, options = registry.look_up(text)
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
