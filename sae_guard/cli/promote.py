"""``sae-guard promote``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.records import folder_option, opened, read
from sae_guard.cli.spelling import spelled
from sae_guard.errors import SaeGuardError

if TYPE_CHECKING:
    from sae_guard.history import History, Promotion, Recorded


@click.command()
@folder_option
@click.argument("references", metavar="RECORD...", nargs=-1, required=True)
@click.option("--as", "label", required=True, metavar="LABEL", help="The version, such as v1.2.")
@click.option("--reason", required=True, help="Why; kept with who and when.")
@click.option(
    "--force", is_flag=True, help="Also a record that failed, or in place of another record."
)
def promote(
    folder: str | None, references: tuple[str, ...], label: str, reason: str, *, force: bool
) -> None:
    """Say that RECORD is the one of a version; nothing is changed, and all promotions are kept.

    RECORD is an id, its hash or the beginning of it, or the name of the version it was recorded
    as. A version that has several specs has a record for each.
    """
    from sae_guard.history import Promotion, check_name, environment, pick
    from sae_guard.history.record import SCHEMA_VERSION

    try:
        check_name(label)
        if not reason.strip():
            raise click.UsageError("--reason is empty")
        kept = opened(folder)
        records, promotions, _ = read(kept)
        chosen = [pick(records, reference) for reference in references]
        by = environment.user(Path.cwd())
        made = [
            Promotion(
                schema_version=SCHEMA_VERSION, label=label, record=each.id, spec=each.spec,
                created=datetime.now(UTC), by=by, reason=reason,
            )
            for each in chosen
        ]  # fmt: skip
        _check(kept, chosen, made, promotions, force=force)
        for promotion in made:
            kept.promote(promotion)
            click.echo(f"promoted {promotion.record} as {label} ({promotion.spec})")
    except SaeGuardError as error:
        raise click.ClickException(spelled(error)) from None


def _check(
    kept: History,
    chosen: Sequence[Recorded],
    made: Sequence[Promotion],
    promotions: Sequence[Promotion],
    *,
    force: bool,
) -> None:
    """Raise `click.ClickException` where a promotion has to be meant."""
    from sae_guard.history import promotions_in_force

    held = promotions_in_force(promotions)
    for recorded, promotion in zip(chosen, made, strict=True):
        kept.measurement(recorded)  # whole and as it was written
        kept.report(recorded)
        named = f"{recorded.id} ({recorded.spec})"
        before = held.get((promotion.label, promotion.spec))
        if before is not None and before.record == recorded.id:
            raise click.ClickException(f"{named} is {promotion.label} already")
        if before is not None and not force:
            raise click.ClickException(
                f"{promotion.label} of {promotion.spec} is {before.record}, promoted by "
                f"{before.by}: {before.reason}; --force puts {recorded.id} in its place"
            )
        if recorded.record.verdict not in ("pass", "warn") and not force:
            raise click.ClickException(
                f"the verdict on {named} is {recorded.record.verdict}; --force promotes it "
                "all the same"
            )
    places = [promotion.spec for promotion in made]
    if len(set(places)) < len(places):
        raise click.ClickException(f"several of these records are of one spec: {places}")
