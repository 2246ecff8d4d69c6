"""``sae-guard retract``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from sae_guard.cli.records import folder_option, open_history, read_history
from sae_guard.errors import allowed


@click.command()
@folder_option
@click.argument("label", metavar="LABEL")
@click.option("--reason", required=True, help="Why; it is recorded with who and when.")
def retract(folder: str | None, label: str, reason: str) -> None:
    """Retract a promoted version: LABEL is no release any more.

    It is no baseline from now on, and not the last promoted version. Nothing is deleted: records,
    promotions and retractions stay in the history.
    """
    from sae_guard.history import Promotion, environment, promoted_releases, retraction_message
    from sae_guard.history.record import SCHEMA_VERSION

    if not reason.strip():
        raise click.UsageError("--reason is empty")
    history = open_history(folder)
    releases = promoted_releases(read_history(history).promotions)
    if label not in releases:
        in_force = [name for name, release in releases.items() if release.retraction is None]
        hint = allowed(label, in_force) if in_force else "there is none"
        raise click.ClickException(f"{label} is no promoted version in {history.url}; {hint}")
    release = releases[label]
    if release.retraction is not None:
        raise click.ClickException(f"{retraction_message(release.retraction)}; it stays retracted")
    retraction = Promotion(
        schema_version=SCHEMA_VERSION,
        label=label,
        action="retract",
        records=tuple(promoted.record for promoted in release.records),
        created=datetime.now(UTC),
        by=environment.user(Path.cwd()),
        reason=reason,
    )
    history.promote(retraction)
    click.echo(retraction_message(retraction))
