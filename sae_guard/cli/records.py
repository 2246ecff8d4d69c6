"""What the commands about the history have in common."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.errors import allowed

if TYPE_CHECKING:
    from sae_guard.history import History, Promotion, Recorded

folder_option = click.option(
    "--folder",
    metavar="FOLDER|URL",
    help="Where the history is (default: $SAE_GUARD_HISTORY, or the nearest .sae_guard/history).",
)


@contextmanager
def without_collection() -> Iterator[None]:
    """Looking for garbage among thousands of records, of which none is, takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def opened(folder: str | None) -> History:
    """The history that is named, or the nearest; raises `SetupError`."""
    from sae_guard.history import History, store

    return History(
        store.locate(folder, Path.cwd() if folder else store.nearest_project(Path.cwd()))
    )


def read(kept: History) -> tuple[list[Recorded], list[Promotion], Sequence[str]]:
    """As `read_any`; that there is no record at all is an error."""
    records, promotions, unreadable = read_any(kept)
    if not records:
        raise click.ClickException(
            f"no records in {kept.url}; `pytest --sae CHECKPOINT --sae-record NAME` makes them, "
            "and --folder or $SAE_GUARD_HISTORY names another folder"
        )
    return records, promotions, unreadable


def read_any(kept: History) -> tuple[list[Recorded], list[Promotion], Sequence[str]]:
    """Records and promotions; what cannot be read is told, and the rest goes on."""
    records, unreadable = kept.records()
    promotions, more = kept.promotions()
    for line in (*unreadable, *more):
        click.echo(f"WARNING: {line}", err=True)
    return records, promotions, (*unreadable, *more)


def filtered(
    records: list[Recorded],
    promotions: Sequence[Promotion],
    globs: dict[str, str | None],
    url: str,
) -> list[Recorded]:
    """Those that all globs match; one that matches none is an error that lists what would."""
    labels: dict[str, list[str]] = {}
    for promotion in promotions:
        labels.setdefault(promotion.record, []).append(promotion.label)
    told: dict[str, Callable[[Recorded], Iterable[str]]] = {
        "spec": lambda r: (r.record.spec.name, r.record.spec.file, r.spec),
        "hook": lambda r: filter(None, (r.record.hook, r.record.hook_out)),
        "checkpoint": lambda r: (r.record.checkpoint.label, r.record.checkpoint.reference),
        "name": lambda r: (r.record.name, *labels.get(r.id, ())),
    }
    for key, glob in globs.items():
        if glob is None:
            continue
        left = [r for r in records if any(fnmatchcase(text, glob) for text in told[key](r))]
        if not left:
            hint = allowed(glob, {text for r in records for text in told[key](r)})
            raise click.ClickException(f"no record in {url} has --{key} {glob!r}; {hint}")
        records = left
    return records
