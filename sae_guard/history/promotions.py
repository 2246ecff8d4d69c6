"""What promotions and retractions come to: which records are the release of a label. No files here.

Promotions are always given in the order of time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sae_guard.history.record import PromotedRecord, Promotion


@dataclass(frozen=True)
class Promoted:
    """A record of a release, and the promotion that says so."""

    record: PromotedRecord
    promotion: Promotion


@dataclass(frozen=True)
class PromotedRelease:
    """A promoted label, and the records that it stands for."""

    label: str
    records: tuple[Promoted, ...] = ()
    """One of each spec and member; of a retracted label those before the retraction."""
    retraction: Promotion | None = None
    """Entry that retracts the label; None if it is in force."""


def promoted_releases(promotions: Iterable[Promotion]) -> dict[str, PromotedRelease]:
    """Map each label that was ever promoted to what it stands for, retracted or not.

    Per label, spec and member the last promotion holds, unless a later entry retracts the label.
    """
    releases: dict[str, PromotedRelease] = {}
    for promotion in promotions:
        before = releases.get(promotion.label, PromotedRelease(promotion.label))
        if promotion.action == "retract":
            releases[promotion.label] = replace(before, retraction=promotion)
            continue
        gone = (*promotion.records, *promotion.removed)
        stay = () if before.retraction else before.records
        records = [
            old for old in stay if not any(record.replaces(old.record) for record in gone)
        ]  # fmt: skip
        records += [Promoted(record, promotion) for record in promotion.records]
        releases[promotion.label] = PromotedRelease(promotion.label, tuple(records))
    return releases


def releases_in_force(promotions: Iterable[Promotion]) -> dict[str, PromotedRelease]:
    """Map each label that is not retracted to what it stands for."""
    releases = promoted_releases(promotions)
    return {label: release for label, release in releases.items() if release.retraction is None}


def last_release(promotions: Iterable[Promotion]) -> PromotedRelease | None:
    """Return the release in force that was promoted last, whatever its label; None without any."""
    promotions = list(promotions)
    order = {id(promotion): index for index, promotion in enumerate(promotions)}
    return max(
        releases_in_force(promotions).values(),
        key=lambda release: max(order[id(record.promotion)] for record in release.records),
        default=None,
    )


def promoted_labels(promotions: Iterable[Promotion]) -> dict[str, list[str]]:
    """Map the id of each promoted record to the labels that are in force."""
    labels: dict[str, list[str]] = {}
    for label, release in releases_in_force(promotions).items():
        for promoted in release.records:
            labels.setdefault(promoted.record.record, []).append(label)
    return labels


def retraction_message(retraction: Promotion) -> str:
    """Say that a label was retracted, when, by whom and why."""
    date = f"{retraction.created.astimezone():%Y-%m-%d}"
    return f"{retraction.label} was retracted on {date} by {retraction.by}: {retraction.reason}"
