"""What commands write: tables in the width of a terminal, and files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import click

from sae_guard import files


def short(text: str, limit: int = 30) -> str:
    """On one line, whatever a model is called; the end of a path tells more than its start."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> Iterator[str]:
    """The rows in columns, of which some are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{'>' if i in right else '<'}{widths[i]}}" for i, cell in enumerate(row)]
        yield "  ".join(cells).rstrip()


def write_whole(path: Path, data: bytes) -> None:
    """Write the whole file or none of it; raises `click.ClickException`."""
    try:
        files.write_whole(path, data)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
