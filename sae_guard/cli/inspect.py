"""``sae-guard inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sae_guard.checkpoints.options import Architecture, Normalize
from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    from sae_guard.checkpoints.options import SaeOptions
    from sae_guard.checkpoints.reference import Checkpoint


@click.command()
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
