"""The ``sae-guard`` command."""

from __future__ import annotations

import json

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sae-guard", prog_name="sae-guard")
def main() -> None:
    """Gate releases of sparse autoencoders.

    The gate itself is `pytest --sae CHECKPOINT`.
    """


@main.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from sae_guard.spec import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
