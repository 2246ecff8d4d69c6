"""``sae-guard promote``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.records import folder_option, open_history, read_records

if TYPE_CHECKING:
    from sae_guard.history import Promotion, Recorded


@click.command()
@folder_option
@click.argument("references", metavar="RECORD...", nargs=-1, required=True)
@click.option("--as", "label", required=True, metavar="LABEL", help="The version, such as v1.2.")
@click.option("--reason", required=True, help="Why; it is recorded with who and when.")
@click.option(
    "--force", is_flag=True, help="Promote a record that failed, or in place of another record."
)
def promote(
    folder: str | None, references: tuple[str, ...], label: str, reason: str, *, force: bool
) -> None:
    """Promote RECORD: from now on it is the one of a version.

    Records and earlier promotions are not changed. RECORD is an id, its hash or the beginning of
    it, or the name that it was recorded under. A version with several specs has a record for each.
    """
    from sae_guard.history import Promotion, check_name, environment, pick
    from sae_guard.history.record import SCHEMA_VERSION

    check_name(label)
    if not reason.strip():
        raise click.UsageError("--reason is empty")
    history = open_history(folder)
    contents = read_records(history)
    recorded = [pick(contents.records, reference) for reference in references]
    user = environment.user(Path.cwd())
    new = [
        Promotion(
            schema_version=SCHEMA_VERSION, label=label, record=record.id, spec=record.spec,
            created=datetime.now(UTC), by=user, reason=reason,
        )
        for record in recorded
    ]  # fmt: skip
    _check(recorded, new, contents.promotions, force=force)
    for promotion in new:
        history.promote(promotion)
        click.echo(f"promoted {promotion.record} as {label} ({promotion.spec})")


def _check(
    records: Sequence[Recorded],
    new: Sequence[Promotion],
    promotions: Sequence[Promotion],
    *,
    force: bool,
) -> None:
    """Check that the records are unchanged, and that the promotions need no ``force``.

    Raises:
        click.ClickException: A promotion needs ``force``, or is there already.
        HistoryError: A record was changed.
    """
    from sae_guard.history import promotions_in_force, read_measurement, read_report

    in_force = promotions_in_force(promotions)
    for recorded, promotion in zip(records, new, strict=True):
        # Reading both verifies their hashes.
        read_measurement(recorded)
        read_report(recorded)
        name = f"{recorded.id} ({recorded.spec})"
        before = in_force.get((promotion.label, promotion.spec))
        if before is not None and before.record == recorded.id:
            raise click.ClickException(f"{name} is {promotion.label} already")
        if before is not None and not force:
            raise click.ClickException(
                f"{promotion.label} of {promotion.spec} is {before.record}, promoted by "
                f"{before.by}: {before.reason}; --force puts {recorded.id} in its place"
            )
        if recorded.record.verdict not in ("pass", "warn") and not force:
            raise click.ClickException(
                f"the verdict on {name} is {recorded.record.verdict}; --force promotes it "
                "all the same"
            )
    specs = [promotion.spec for promotion in new]
    if len(set(specs)) < len(specs):
        raise click.ClickException(
            f"several of these records are of one spec: {', '.join(specs)}; promote one of each"
        )
