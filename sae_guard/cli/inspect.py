"""``sae-guard inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sae_guard.cli.options import sae_options
from sae_guard.tables import table_lines

if TYPE_CHECKING:
    from sae_guard.checkpoints.options import SaeOptions
    from sae_guard.checkpoints.reference import Checkpoint


@click.command()
@click.argument("reference")
@sae_options
def inspect(reference: str, **sae: Any) -> None:
    """Describe a checkpoint: format, size, activation, assumptions, warnings.

    REFERENCE is a path, a glob, path#name, hf://organisation/repository/path@revision or
    sae_lens://release/id. The options are those of the `sae` block of a spec, for what the files
    do not say.
    """
    from sae_guard.checkpoints.options import parse
    from sae_guard.checkpoints.reference import resolve

    options = parse(sae)
    for checkpoint in resolve(reference, Path.cwd()):
        for line in table_lines(_rows(checkpoint, options)):
            click.echo(line)


def _rows(checkpoint: Checkpoint, options: SaeOptions) -> list[tuple[str, str]]:
    """Load the checkpoint and return facts about it, by name."""
    from sae_guard.checkpoints.declare import declare
    from sae_guard.checkpoints.inspect import facts
    from sae_guard.checkpoints.load import load_checkpoint
    from sae_guard.checkpoints.options import merged

    declared = declare(checkpoint.path, checkpoint.name)
    all_options = merged(("the registry", checkpoint.options), ("the command line", options))
    sae = load_checkpoint(checkpoint, all_options)
    gated_at = ", ".join([declared.model_name or "?", declared.hook or "?"])
    if declared.hook_out or sae.transcoder:
        gated_at += f" → {declared.hook_out or '?'}"
    return [("checkpoint", str(checkpoint)), *facts(sae, all_options), ("gated at", gated_at)]
