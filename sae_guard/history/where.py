"""Where the history is."""

from __future__ import annotations

import os
from pathlib import Path

from sae_guard.files import expanded

DEFAULT = Path(".sae_guard", "history")
"""In the root folder of a project."""
VARIABLE = "SAE_GUARD_HISTORY"


def chosen(text: str | None, root: Path) -> str:
    """The folder or URL that somebody names, or else ``$SAE_GUARD_HISTORY``, or the default.

    Args:
        text: What is named, if anything is.
        root: Folder that relative paths start from.
    """
    named = text or os.environ.get(VARIABLE) or str(DEFAULT)
    return named if "://" in named else str(root / expanded(named))


def nearest(folder: Path) -> Path:
    """The folder, or the one above it, in which there is a history; or else the folder."""
    found = (above for above in (folder, *folder.parents) if (above / DEFAULT).is_dir())
    return next(found, folder)
