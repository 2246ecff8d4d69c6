"""``sae-guard cache``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.output import shorten
from sae_guard.tables import table_lines

if TYPE_CHECKING:
    from sae_guard.cache import EntryInfo


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of the cache.")
@click.option("--clear", is_flag=True, help="Remove all entries.")
def cache(folder: Path | None, *, clear: bool) -> None:
    """List the entries of the cache of activations, the most recently used first.

    The default folder is $SAE_GUARD_CACHE, or the user's cache folder.
    """
    from sae_guard.cache import Cache, root_from_option

    root = folder or root_from_option(None)
    if root is None:
        raise click.ClickException("the cache is off ($SAE_GUARD_CACHE); name one with --folder")
    opened = Cache(root)
    if clear:
        click.echo(f"removed {_size(opened.clear())} from {opened.root}")
        return
    entries = opened.entries()[::-1]
    n_bytes = sum(entry.bytes for entry in entries)
    click.echo(
        f"{opened.root}: {_size(n_bytes)} of {_size(opened.limit)} ({n_bytes / opened.limit:.0%}), "
        f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    )
    rows = [_cache_row(entry) for entry in entries]
    titles = ("size", "last used", "model", "windows", "entry")
    for line in table_lines([titles, *rows], right=(0, 3)) if rows else ():
        click.echo(line)


def _cache_row(entry: EntryInfo) -> tuple[str, str, str, str, str]:
    """Write the cells of an entry, with ``?`` for what its description does not contain."""

    def texts(part: str, *keys: str) -> list[str]:
        values = entry.description.get(part)
        described = values if isinstance(values, Mapping) else {}
        return [shorten(str(described.get(key, "?"))) for key in keys]

    last_used = datetime.fromtimestamp(entry.last_used).astimezone()
    return (
        _size(entry.bytes),
        f"{last_used:%Y-%m-%d %H:%M}",
        ", ".join(texts("model", "name", "dtype", "processing")),
        " × ".join(texts("corpus", "n_sequences", "context")),
        entry.key[:8],
    )


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
