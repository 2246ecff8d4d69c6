"""Where the cache is, and that the folder is no one else's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from sae_guard.cache.disk import CacheError, as_cache_error, place
from sae_guard.files import expanded

_NAME = "CACHEDIR.TAG"
_SIGN = b"cache of sae_guard"
_CONTENT = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder is a %s; everything in it can be removed.
# For information about cache directory tags, see https://bford.info/cachedir/
""" % (_SIGN)


def default_root() -> Path:
    """``$SAE_GUARD_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("SAE_GUARD_CACHE")
    return expanded(chosen) if chosen else user_cache_path("sae-guard", appauthor=False)


def chosen_root(text: str | None) -> Path | None:
    """The folder that somebody names, or else the default; None where either is ``off``."""
    root = expanded(text) if text else default_root()
    return None if str(root) == "off" else root


def tag(root: Path) -> None:
    """Make the folder a cache, which backups skip; raises `CacheError` like `check`."""
    # Again where another process, tagging too, took our file for an orphan: nothing else may be
    # written before there is a tag.
    while not check(root):
        place(root / _NAME, lambda file: file.write(_CONTENT), root, _NAME)


def check(root: Path) -> bool:
    """Whether the folder is a cache; not yet, if it is empty or not there.

    The tag is the first thing written, so a folder that holds other things and no tag was someone's
    before: backups must not skip it, and clearing must not touch it.

    Raises:
        CacheError: The folder holds other things than a cache, or is no folder.
    """
    with as_cache_error(root):
        try:
            names = os.listdir(root)
        except FileNotFoundError:
            return False
        with suppress(FileNotFoundError):
            if _SIGN in (root / _NAME).read_bytes():
                return True
    if any(not name.startswith(".") for name in names):
        raise CacheError(
            f"{root} is no cache: it holds other things and no {_NAME} of sae_guard; "
            "name a new or empty folder"
        )
    return False
