"""``sae-guard promote``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sae_guard.cli.records import folder_option, open_history, read_records
from sae_guard.errors import SetupError, allowed

if TYPE_CHECKING:
    from sae_guard.history import Contents, PromotedRecord, Promotion, Recorded


@click.command()
@folder_option
@click.argument("references", metavar="REFERENCE...", nargs=-1, required=True)
@click.option("--as", "label", required=True, metavar="LABEL", help="The version, such as v1.2.")
@click.option("--reason", required=True, help="Why; it is recorded with who and when.")
@click.option(
    "--removed",
    multiple=True,
    metavar="MEMBER",
    help="A member of the last promoted version that this one lacks on purpose; repeatable.",
)
@click.option(
    "--force", is_flag=True, help="Promote records that failed, or in place of other records."
)
def promote(
    folder: str | None, references: tuple[str, ...], label: str, reason: str,
    removed: tuple[str, ...], *, force: bool,
) -> None:  # fmt: skip
    """Promote a release: from now on its records are those of a version.

    REFERENCE is the name that the release was recorded under, which stands for all its records; or
    the id of a record, its hash or the beginning of it. The release needs every member of the last
    promoted version, but for those of --removed. Records and earlier promotions are not changed.
    """
    from sae_guard.history import Promotion, check_name, environment, records_of_names
    from sae_guard.history.record import SCHEMA_VERSION

    check_name(label)
    if not reason.strip():
        raise click.UsageError("--reason is empty")
    history = open_history(folder)
    contents = read_records(history)
    records = records_of_names(contents, references)
    rows = tuple(recorded.promoted for recorded in records)
    gone = [old.promoted for old in _removed(contents, records, removed)]
    gone += _left_over(contents.promotions, label, rows)
    promotion = Promotion(
        schema_version=SCHEMA_VERSION,
        label=label,
        records=rows,
        removed=tuple(dict.fromkeys(gone)),
        created=datetime.now(UTC),
        by=environment.user(Path.cwd()),
        reason=reason,
    )
    _check_records(records, label, force=force)
    _check_label(contents.promotions, promotion, force=force)
    _check_name(contents.records, records, label)
    history.promote(promotion)
    for recorded in records:
        click.echo(f"promoted {recorded.id} as {label} ({recorded.case})")


def _check_records(records: Sequence[Recorded], label: str, *, force: bool) -> None:
    """Check that the records are unchanged, of different SAEs, and need no ``force``.

    Raises:
        click.ClickException: Two members of a spec have the same weights, or a record failed.
        HistoryError: A record was changed.
    """
    from sae_guard.history import read_measurement, read_report
    from sae_guard.history.references import weights_of

    by_weights: dict[tuple[str, tuple[str, ...]], Recorded] = {}
    for recorded in records:
        # Reading both verifies their hashes.
        read_measurement(recorded)
        read_report(recorded)
        weights = weights_of(recorded)
        other = by_weights.setdefault((recorded.spec, weights), recorded)
        if other is not recorded:
            problem = "have the same weights" if weights else "are of weights that are not recorded"
            raise click.ClickException(
                f"{other.member} and {recorded.member} of {recorded.spec} {problem}: two members "
                "are two different SAEs; record the wrong one again, from its own checkpoint:"
                f"\n  {other.id}\n  {recorded.id}"
            )
    failed = [r for r in records if r.record.verdict not in ("pass", "warn")]
    if failed and not force:
        lines = "".join(f"\n  {r.record.verdict}  {r.id} ({r.case})" for r in failed)
        raise click.ClickException(
            f"{len(failed)} of {len(records)} records of {label} did not pass; --force promotes "
            f"them all the same:{lines}"
        )


def _check_name(all_records: Sequence[Recorded], records: Sequence[Recorded], label: str) -> None:
    """Check that the label is not the name under which other weights are recorded.

    Raises:
        click.ClickException: It is: a baseline of this name would silently mean something else.
    """
    from sae_guard.history.references import weights_of

    promoted = {(recorded.case, weights_of(recorded)) for recorded in records}
    others = [
        recorded
        for recorded in all_records
        if recorded.record.name == label and (recorded.case, weights_of(recorded)) not in promoted
    ]
    if others:
        raise click.ClickException(
            f"{label} is the name of other records; choose another label:"
            + "".join(f"\n  {recorded.id} ({recorded.case})" for recorded in others)
        )


def _check_label(promotions: Sequence[Promotion], new: Promotion, *, force: bool) -> None:
    """Check that the label is free.

    Raises:
        click.ClickException: The label is taken, or was retracted, and ``force`` is not set; or it
            stands for these records already.
    """
    from sae_guard.history import promoted_releases, retraction_message

    release = promoted_releases(promotions).get(new.label)
    if release is None:
        return
    if release.retraction is not None:
        if not force:
            raise click.ClickException(
                f"{retraction_message(release.retraction)}; choose another label, or --force uses "
                "it again"
            )
        return
    before = {promoted.record.record for promoted in release.records}
    if before == {record.record for record in new.records}:
        raise click.ClickException(f"these records are {new.label} already")
    if not force:
        last = release.records[-1].promotion
        raise click.ClickException(
            f"{new.label} is promoted already, by {last.by}: {last.reason}; choose another label, "
            "or --force puts these records in the place of:"
            + "".join(f"\n  {id}" for id in sorted(before))
        )


def _removed(
    contents: Contents, records: Sequence[Recorded], names: Sequence[str]
) -> list[Recorded]:
    """Return the records of the last promoted version whose members are removed on purpose.

    Raises:
        click.ClickException: Another member of that version is missing; or a name is no member of
            it, or is a member of this version too.
        SetupError: A promotion, or a record of that version, cannot be read.
    """
    from sae_guard.gate.baselines import identity
    from sae_guard.history import last_release
    from sae_guard.release.completeness import missing

    if contents.unreadable_promotions:
        raise SetupError(
            "a promotion cannot be read, which could be the last one: "
            f"{contents.unreadable_promotions[0]}"
        )
    last = last_release(contents.promotions)
    if last is None:
        if names:
            raise click.ClickException(f"--removed {names[0]}: no version is promoted before it")
        return []
    earlier = _records_of(contents, last.label)
    gone = [earlier[at] for at in missing([*map(identity, earlier)], [*map(identity, records)])]
    for name in names:
        if name not in {old.member for old in gone}:
            is_present = name in {old.member for old in earlier}
            problem = "is in this version too" if is_present else f"is no member of {last.label}"
            lacking = allowed(name, {old.member for old in gone}) if gone else "none is missing"
            raise click.ClickException(f"--removed {name}: it {problem}; {lacking}")
    if unnamed := [old for old in gone if old.member not in names]:
        lines = "".join(f"\n  {old.case}" for old in unnamed)
        raise click.ClickException(
            f"{len(unnamed)} of {len(earlier)} members of {last.label}, the last promoted version, "
            "are missing; promote their records too, or name each that is gone on purpose: "
            f"--removed MEMBER{lines}"
        )
    return gone


def _left_over(
    promotions: Sequence[Promotion], label: str, new: Sequence[PromotedRecord]
) -> list[PromotedRecord]:
    """Return what the label stands for until now and none of its new records replaces."""
    from sae_guard.history import releases_in_force

    release = releases_in_force(promotions).get(label)
    old = [promoted.record for promoted in release.records] if release else []
    return [row for row in old if not any(record.replaces(row) for record in new)]


def _records_of(contents: Contents, label: str) -> list[Recorded]:
    from sae_guard.history import find_records

    try:
        return find_records(contents, label)
    except SetupError as error:
        raise SetupError(
            f"which members the last promoted version has is unknown: {error}; restore the record, "
            f"or retract {label}"
        ) from None
