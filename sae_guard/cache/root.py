"""Location of the cache, and a check that the folder belongs to the cache and to nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from sae_guard.cache.disk import CacheError, as_cache_error, write_atomically
from sae_guard.files import expanded

_TAG_NAME = "CACHEDIR.TAG"  # backup programs skip folders with such a file
_SIGN = b"cache of sae_guard"
_CONTENT = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder is a %s; everything in it can be removed.
# For information about cache directory tags, see https://bford.info/cachedir/
""" % (_SIGN)


def default_root() -> Path:
    """Return the folder ``$SAE_GUARD_CACHE``, or else ``sae-guard`` in the user's cache folder."""
    variable = os.environ.get("SAE_GUARD_CACHE")
    return expanded(variable) if variable else user_cache_path("sae-guard", appauthor=False)


def root_from_option(text: str | None) -> Path | None:
    """Return the folder of the cache; None if the cache is switched off.

    Args:
        text: Path from an option, or ``off``; None or empty takes `default_root`, which can be
            ``off`` too.
    """
    root = expanded(text) if text else default_root()
    return None if str(root) == "off" else root


def tag(root: Path) -> None:
    """Mark the folder as a cache by a ``CACHEDIR.TAG``, as the first file that is written to it.

    Raises:
        CacheError: As `is_tagged`, or the tag cannot be written.
    """
    # Repeated because another process that writes the tag at the same time removes our partial
    # file as that of a killed writer. No other file may be written before the tag exists.
    while not is_tagged(root):
        write_atomically(root / _TAG_NAME, lambda file: file.write(_CONTENT), root, _TAG_NAME)


def is_tagged(root: Path) -> bool:
    """Return whether the folder is a cache; False if it is empty or does not exist.

    The tag is the first file of a cache. A folder that has files but no tag is therefore someone
    else's: backups must not skip it, and clearing the cache must not remove it.

    Raises:
        CacheError: The folder has other files than a cache, or is not a folder.
    """
    with as_cache_error(root):
        try:
            names = os.listdir(root)
        except FileNotFoundError:
            return False
        with suppress(FileNotFoundError):
            if _SIGN in (root / _TAG_NAME).read_bytes():
                return True
    # Hidden files alone are no one's work: partial tags of killed writers, or .DS_Store.
    if any(not name.startswith(".") for name in names):
        raise CacheError(
            f"{root} is not a cache: it has files, but no {_TAG_NAME} of sae_guard; "
            "allowed: a new or empty folder"
        )
    return False
