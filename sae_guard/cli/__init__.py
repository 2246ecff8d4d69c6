"""The ``sae-guard`` command."""

from __future__ import annotations

import json
from typing import Any

import click

from sae_guard.cli.cache import cache
from sae_guard.cli.compare import compare
from sae_guard.cli.history import history
from sae_guard.cli.inspect import inspect
from sae_guard.cli.measure import measure
from sae_guard.cli.promote import promote
from sae_guard.cli.release import release
from sae_guard.cli.retract import retract
from sae_guard.cli.spelling import spelled
from sae_guard.cli.tighten import tighten
from sae_guard.cli.verify import verify
from sae_guard.errors import SaeGuardError


class _Commands(click.Group):
    """Commands that print an error of sae_guard, with the options that it is about."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except SaeGuardError as error:
            raise click.ClickException(spelled(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sae-guard", prog_name="sae-guard")
def main() -> None:
    """Gate releases of sparse autoencoders.

    The gate itself is `pytest --sae CHECKPOINT`.
    """


@main.command()
@click.option(
    "--report", is_flag=True, help="Print the schema of reports of pytest --sae-json instead."
)
def schema(*, report: bool) -> None:
    """Print the JSON Schema of specs, for editors."""
    from sae_guard.core import report_json
    from sae_guard.specs import json_schema

    json_of_schema = report_json.json_schema() if report else json_schema()
    click.echo(json.dumps(json_of_schema, indent=2, ensure_ascii=False))


@main.command()
def formats() -> None:
    """List the supported checkpoint formats as a Markdown table."""
    from sae_guard.checkpoints.formats import FORMATS

    click.echo("| format | recognised by | holds |\n|---|---|---|")
    for row in sorted(FORMATS, key=lambda row: row.refused):
        click.echo(f"| {row.name} | {row.recognised_by} | {row.holds} |")


for command in (
    compare, inspect, measure, verify, cache, history, promote, release, retract, tighten,
):  # fmt: skip
    main.add_command(command)
