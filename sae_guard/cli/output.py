"""What commands write: texts short enough for a column, and files."""

from __future__ import annotations

from pathlib import Path

import click

from sae_guard import files


def short(text: str, limit: int = 30) -> str:
    """On one line, whatever a model is called; the end of a path tells more than its start."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def write_whole(path: Path, data: bytes) -> None:
    """Write the whole file or none of it; raises `click.ClickException`."""
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
