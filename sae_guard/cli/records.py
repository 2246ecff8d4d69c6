"""The history, as all commands read and filter it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from sae_guard.errors import SetupError, allowed

if TYPE_CHECKING:
    from sae_guard.history import Contents, History, Recorded

Item = TypeVar("Item")

folder_option = click.option(
    "--folder",
    metavar="FOLDER|URL",
    help="Where the history is (default: $SAE_GUARD_HISTORY, or the nearest .sae_guard/history).",
)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the garbage collector.

    It would take most of the time of reading thousands of records, none of which is garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def open_history(folder: str | None) -> History:
    """Open the history at a folder or URL; None for the nearest one.

    Raises:
        SetupError: The folder or URL cannot be a history.
    """
    from sae_guard.history import History, store

    return History(
        store.locate(folder, Path.cwd() if folder else store.nearest_project(Path.cwd()))
    )


def read_records(history: History) -> Contents:
    """Read a history like `read_history`.

    Raises:
        click.ClickException: There is no record at all.
    """
    contents = read_history(history)
    if not contents.records:
        raise click.ClickException(
            f"no records in {history.url}; `pytest --sae CHECKPOINT --sae-record NAME` makes them, "
            "and --folder or $SAE_GUARD_HISTORY names another folder"
        )
    return contents


def read_history(history: History) -> Contents:
    """Read a history, and print a warning for each record or promotion that cannot be read."""
    with _garbage_collection_paused():
        contents = history.read()
    for line in contents.unreadable:
        click.echo(f"WARNING: {line}", err=True)
    return contents


def records_even_retracted(contents: Contents, reference: str) -> list[Recorded]:
    """Return the records that a reference names; say so if it is a label that was retracted.

    Raises:
        SetupError: `find_records` finds none, or cannot decide.
    """
    from sae_guard.history import find_records, find_retraction, retraction_message

    records = find_records(contents, reference, even_retracted=True)
    if (retraction := find_retraction(contents, reference)) is not None:
        click.echo(retraction_message(retraction), err=True)
    return records


def filter_records(contents: Contents, globs: dict[str, str | None], url: str) -> list[Recorded]:
    """Select the records that match all globs.

    Args:
        contents: What a history holds; a record also matches by a label that it was promoted as.
        globs: Option → its glob; None where the option is not used.
        url: URL of the history, for messages.

    Raises:
        SetupError: A glob matches no record; the message lists what would match.
    """
    labels: dict[str, list[str]] = {}
    for promotion in contents.promotions:
        for promoted in promotion.records:
            labels.setdefault(promoted.record, []).append(promotion.label)
    texts: dict[str, Callable[[Recorded], Iterable[str]]] = {
        "spec": lambda r: (r.record.spec.name, r.record.spec.file, r.spec),
        "hook": lambda r: filter(None, (r.record.hook, r.record.hook_out)),
        "checkpoint": lambda r: (r.record.checkpoint.label, r.record.checkpoint.reference),
        "name": lambda r: (r.record.name, *labels.get(r.id, ())),
    }
    records = contents.records
    for key, glob in globs.items():
        records = matching(records, glob, texts[key], f"no record in {url} has --{key}")
    return records


def matching(
    items: list[Item], glob: str | None, names: Callable[[Item], Iterable[str]], problem: str
) -> list[Item]:
    """Select the items that have a name which matches a glob.

    Args:
        items: What is selected from.
        glob: The glob; None for all items.
        names: Returns the names of an item.
        problem: Beginning of the message where there is none.

    Raises:
        SetupError: There is none; the message lists what would match.
    """
    if glob is None:
        return items
    selected = [item for item in items if any(fnmatchcase(name, glob) for name in names(item))]
    if not selected:
        hint = allowed(glob, {name for item in items for name in names(item)})
        raise SetupError(f"{problem} {glob!r}; {hint}")
    return selected
