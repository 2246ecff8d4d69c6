"""The ``sae-guard`` command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sae_guard.checkpoints.options import Architecture, Normalize
from sae_guard.cli.tighten import tighten
from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    from sae_guard.cache import Stored
    from sae_guard.checkpoints.options import SaeOptions
    from sae_guard.checkpoints.reference import Checkpoint


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sae-guard", prog_name="sae-guard")
def main() -> None:
    """Gate releases of sparse autoencoders.

    The gate itself is `pytest --sae CHECKPOINT`.
    """


main.add_command(tighten)


@main.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from sae_guard.spec import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@main.command()
@click.argument("reference")
@click.option("--architecture", type=click.Choice(get_args(Architecture)), help="If not told.")
@click.option("--k", type=click.IntRange(min=1), help="Active latents per token of a TopK SAE.")
@click.option("--pre-bias/--no-pre-bias", default=None, help="Whether b_dec is taken off first.")
@click.option("--normalize", type=click.Choice(get_args(Normalize)), help="Of the input.")
@click.option("--scale", metavar="FACTOR|folded|stored", help="What the input is multiplied by.")
def inspect(reference: str, scale: str | None, **said: Any) -> None:
    """Say what a checkpoint is: format, size, activation, assumptions, warnings.

    REFERENCE is a path, a glob, path#name, hf://organisation/repository/path@revision or
    sae_lens://release/id. The options are those of the `sae` block of a spec, for what the files
    do not say.
    """
    from sae_guard.checkpoints.options import parse
    from sae_guard.checkpoints.reference import resolve

    try:
        options = parse({**said, "scale": _scale(scale)})
        for checkpoint in resolve(reference, Path.cwd()):
            rows = _inspected(checkpoint, options)
            width = max(len(name) for name, _ in rows)
            for name, value in rows:
                click.echo(f"{name.ljust(width)}  {value}")
    except SaeGuardError as error:
        raise click.ClickException(str(error)) from None


def _scale(text: str | None) -> Any:
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def _inspected(checkpoint: Checkpoint, options: SaeOptions) -> list[tuple[str, str]]:
    from sae_guard.checkpoints.declare import declare
    from sae_guard.checkpoints.inspect import facts
    from sae_guard.checkpoints.load import load_checkpoint
    from sae_guard.checkpoints.options import merged

    declared = declare(checkpoint.path, checkpoint.name)
    said = merged(("the registry", checkpoint.options), ("the command line", options))
    sae = load_checkpoint(checkpoint, said)
    place = ", ".join([declared.model_name or "?", declared.hook or "?"])
    if declared.hook_out or sae.transcoder:
        place += f" → {declared.hook_out or '?'}"
    return [("checkpoint", str(checkpoint)), *facts(sae, said), ("gated at", place)]


@main.command()
def formats() -> None:
    """List the checkpoint formats that are read, as Markdown."""
    from sae_guard.checkpoints.load import FAMILIES

    click.echo("| format | recognised by | holds |\n|---|---|---|")
    for family in sorted(FAMILIES, key=lambda family: family.holds.startswith("refused")):
        click.echo(f"| {family.name} | {family.recognised_by} | {family.holds} |")


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Another one than the default.")
@click.option("--clear", is_flag=True, help="Remove everything that it holds.")
def cache(folder: Path | None, *, clear: bool) -> None:
    """Say what the cache of activations holds, the most recently used first.

    The default is $SAE_GUARD_CACHE, or the user's cache folder.
    """
    from sae_guard.cache import Cache, chosen_root

    root = folder or chosen_root(None)
    if root is None:
        raise click.ClickException("the cache is off ($SAE_GUARD_CACHE); name one with --folder")
    chosen = Cache(root)
    try:
        if clear:
            click.echo(f"removed {_size(chosen.clear())} from {chosen.root}")
            return
        entries = chosen.entries()[::-1]
    except SaeGuardError as error:
        raise click.ClickException(str(error)) from None
    used = sum(stored.bytes for stored in entries)
    click.echo(
        f"{chosen.root}: {_size(used)} of {_size(chosen.limit)} ({used / chosen.limit:.0%}), "
        f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    )
    rows = [_cache_row(stored) for stored in entries]
    titles = ("size", "last used", "model", "windows", "entry")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in [titles, *rows] if rows else []:
        cells = [f"{cell:{'>' if i in (0, 3) else '<'}{widths[i]}}" for i, cell in enumerate(row)]
        click.echo("  ".join(cells).rstrip())


def _cache_row(stored: Stored) -> tuple[str, str, str, str, str]:
    """Cells of the entry's line; a question mark for what its description does not say."""

    def told(part: str, *keys: str) -> list[str]:
        values = stored.description.get(part)
        known = values if isinstance(values, Mapping) else {}
        return [_short(str(known.get(key, "?"))) for key in keys]

    used = datetime.fromtimestamp(stored.last_used).astimezone()
    return (
        _size(stored.bytes),
        f"{used:%Y-%m-%d %H:%M}",
        ", ".join(told("model", "name", "dtype", "processing")),
        " × ".join(told("corpus", "n_sequences", "context")),
        stored.key[:8],
    )


def _short(text: str, limit: int = 30) -> str:
    """On one line, whatever a model is called; the end of a path tells more than its start."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
