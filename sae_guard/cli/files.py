"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

import click

from sae_guard import files


def write_whole(path: Path, data: bytes) -> None:
    """Write the whole file or none of it; raises `click.ClickException`."""
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
