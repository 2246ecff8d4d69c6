"""Files that commands write."""

from __future__ import annotations

import os
from pathlib import Path

import click


def write_whole(path: Path, data: bytes) -> None:
    """Write the file, whole or not at all; raises `click.ClickException`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"{path} cannot be written: {error}") from None
