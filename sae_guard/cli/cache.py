"""``sae-guard cache``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.output import short
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError
from sae_guard.tables import table_lines

if TYPE_CHECKING:
    from sae_guard.cache import EntryInfo


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Another one than the default.")
@click.option("--clear", is_flag=True, help="Remove everything that it holds.")
def cache(folder: Path | None, *, clear: bool) -> None:
    """Say what the cache of activations holds, the most recently used first.

    The default is $SAE_GUARD_CACHE, or the user's cache folder.
    """
    from sae_guard.cache import Cache, root_from_option

    root = folder or root_from_option(None)
    if root is None:
        raise click.ClickException("the cache is off ($SAE_GUARD_CACHE); name one with --folder")
    chosen = Cache(root)
    try:
        if clear:
            click.echo(f"removed {_size(chosen.clear())} from {chosen.root}")
            return
        entries = chosen.entries()[::-1]
    except SaeGuardError as error:
        raise click.ClickException(spelled(error)) from None
    used = sum(stored.bytes for stored in entries)
    click.echo(
        f"{chosen.root}: {_size(used)} of {_size(chosen.limit)} ({used / chosen.limit:.0%}), "
        f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    )
    rows = [_cache_row(stored) for stored in entries]
    titles = ("size", "last used", "model", "windows", "entry")
    for line in table_lines([titles, *rows], right=(0, 3)) if rows else ():
        click.echo(line)


def _cache_row(stored: EntryInfo) -> tuple[str, str, str, str, str]:
    """Cells of the entry's line; a question mark for what its description does not say."""

    def told(part: str, *keys: str) -> list[str]:
        values = stored.description.get(part)
        known = values if isinstance(values, Mapping) else {}
        return [short(str(known.get(key, "?"))) for key in keys]

    used = datetime.fromtimestamp(stored.last_used).astimezone()
    return (
        _size(stored.bytes),
        f"{used:%Y-%m-%d %H:%M}",
        ", ".join(told("model", "name", "dtype", "processing")),
        " × ".join(told("corpus", "n_sequences", "context")),
        stored.key[:8],
    )


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
