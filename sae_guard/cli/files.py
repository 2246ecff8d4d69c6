"""Files that commands write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click


def write_whole(path: Path, data: bytes) -> None:
    """Write the whole file or none of it, through links to it and with the mode that it had; raises
    `click.ClickException`."""
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
