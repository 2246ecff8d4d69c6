"""``sae-guard inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.options import about_saes
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError
from sae_guard.tables import table_lines

if TYPE_CHECKING:
    from sae_guard.checkpoints.options import SaeOptions
    from sae_guard.checkpoints.reference import Checkpoint


@click.command()
@click.argument("reference")
@about_saes
def inspect(reference: str, **said: Any) -> None:
    """Say what a checkpoint is: format, size, activation, assumptions, warnings.

    REFERENCE is a path, a glob, path#name, hf://organisation/repository/path@revision or
    sae_lens://release/id. The options are those of the `sae` block of a spec, for what the files
    do not say.
    """
    from sae_guard.checkpoints.options import parse
    from sae_guard.checkpoints.reference import resolve

    try:
        options = parse(said)
        for checkpoint in resolve(reference, Path.cwd()):
            for line in table_lines(_inspected(checkpoint, options)):
                click.echo(line)
    except SaeGuardError as error:
        raise click.ClickException(spelled(error)) from None


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
