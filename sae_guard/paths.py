"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(text: str) -> Path:
    """With the home folder for ``~``; a ``~name`` that nobody is called stays, and is not found.

    `Path.expanduser` raises there.
    """
    return Path(os.path.expanduser(text))
