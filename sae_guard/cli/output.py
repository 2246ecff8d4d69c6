"""Output of the commands: texts that fit into a column, and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from sae_guard import files


def shorten(text: str, limit: int = 30) -> str:
    """Return the text on one line, in at most ``limit`` characters.

    The end is kept: the end of a path says more than its start.
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def shorten_apart(texts: Sequence[str], limit: int) -> list[str]:
    """Shorten the cells of a column, or none of them if two different ones would look alike."""
    short = {text: shorten(text, limit) for text in texts}
    if len(set(short.values())) < len(short):
        short = {text: shorten(text, len(text) + 1) for text in texts}
    return [short[text] for text in texts]


def write_whole(path: Path, data: bytes) -> None:
    """Write the whole file or nothing.

    Raises:
        click.ClickException: The file cannot be written.
    """
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
