"""Look up records by what people call them: an id, a hash, a version's name, a promoted label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sae_guard.checkpoints.locate import SUFFIXES
from sae_guard.checkpoints.reference import weights_among
from sae_guard.errors import SetupError, allowed
from sae_guard.history.promotions import PromotedRelease, promoted_releases, retraction_message
from sae_guard.history.record import HistoryError, Promotion, Recorded
from sae_guard.history.store import Contents


def records_of_names(contents: Contents, references: Sequence[str]) -> list[Recorded]:
    """Return the records with these ids, hashes or names, one of each spec and member.

    Promotions are ignored.

    Args:
        contents: What the history holds.
        references: Ids, hashes, first digits of hashes (four or more), or names of versions. A
            name stands for all its records.

    Raises:
        SetupError: No record matches; or of one spec and member there are several that measured
            different things.
        HistoryError: A record of such a name cannot be read.
    """
    records = contents.records
    for name in references:
        _check_readable(contents, name)
    matches = [recorded for name in references for recorded in _matching(records, name)]
    ids = {recorded.id for recorded in matches}
    in_order_of_time = [recorded for recorded in records if recorded.id in ids]
    return _one_of_each(in_order_of_time, ", ".join(references))


def find_records(
    contents: Contents, reference: str, *, even_retracted: bool = False
) -> list[Recorded]:
    """Return all records of the release that a reference names, one of each spec and member.

    Args:
        contents: What the history holds.
        reference: A promoted label or the name of a version, which name a whole release; or an
            id, a hash or first digits of a hash, which name one record.
        even_retracted: True to accept a label that was retracted, and return its records.

    Raises:
        SetupError: There is no such record; a promoted one cannot be read; the label was
            retracted; or of one spec and member there are several records that measured different
            things.
        HistoryError: A record, promotion or retraction of this name cannot be read.
    """
    _check_readable(contents, reference)
    releases = promoted_releases(contents.promotions)
    if (release := releases.get(reference)) is None:
        matches = _matching(contents.records, reference, releases)
        return _one_of_each(matches, reference)
    if release.retraction is not None and not even_retracted:
        raise SetupError(
            f"{retraction_message(release.retraction)}; name another version, or the id of a record"
        )
    return _promoted_records(contents, release)


def find_retraction(contents: Contents, reference: str) -> Promotion | None:
    """Return the entry that retracts the label; None for other references and labels in force."""
    release = promoted_releases(contents.promotions).get(reference)
    return release.retraction if release else None


def weights_of(recorded: Recorded) -> tuple[str, ...]:
    """Return what is equal for records of the same weights; empty if it is unknown.

    It is the hashes of the files without configs, and the name in a file that holds several SAEs.
    """
    return _identified(recorded, weights_among(_files(recorded)))


def listed(records: Sequence[Recorded]) -> str:
    """Return a line with id, spec and member for each record, the newest eight at most."""
    # The newest are the likeliest, and hundreds would fill the screen.
    return "".join(f"\n  {recorded.id}  {recorded.case}" for recorded in records[-8:])


def unreadable_of(contents: Contents, name: str) -> list[str]:
    """Return the messages on records and promotions of this name that cannot be read."""
    # Each of these messages starts with a path, which contains the id, which contains the name.
    of_name = re.compile(rf"Z-{re.escape(name)}-[0-9a-f]{{12}}/")
    return [line for line in contents.unreadable if of_name.search(line)]


def _check_readable(contents: Contents, name: str) -> None:
    """Raise `HistoryError` if something of this name cannot be read: it could be a member."""
    if messages := unreadable_of(contents, name):
        raise HistoryError(f"{name} cannot be read whole: {messages[0]}")


def _promoted_records(contents: Contents, release: PromotedRelease) -> list[Recorded]:
    by_id = {recorded.id: recorded for recorded in contents.records}
    for promoted in release.records:
        row = promoted.record
        if row.record not in by_id:
            raise SetupError(
                f"{release.label} of {row.spec} is {row.record}, which is no readable record"
            )
    return [by_id[promoted.record.record] for promoted in release.records]


def _matching(
    records: Sequence[Recorded], reference: str, labels: Iterable[str] = ()
) -> list[Recorded]:
    """Return the records with this id, or else this name, or else this hash; at least one."""
    # In this order, because a name may look like the first digits of a hash.
    matches = [recorded for recorded in records if recorded.id == reference]
    matches = matches or [recorded for recorded in records if recorded.record.name == reference]
    if not matches and re.fullmatch("[0-9a-f]{4,12}", reference):
        matches = [recorded for recorded in records if recorded.short.startswith(reference)]
        if len(matches) > 1:
            raise SetupError(
                f"{len(matches)} hashes begin with {reference!r}; give more digits, or the id of "
                f"one:{listed(matches)}"
            )
    if not matches:
        names = {*labels, *(recorded.record.name for recorded in records)}
        hint = allowed(reference, names) if names else "there are no records"
        raise SetupError(f"no record {reference!r}: give an id, its hash, or a name; {hint}")
    return matches


def _one_of_each(records: Sequence[Recorded], reference: str) -> list[Recorded]:
    """Return the newest record of each spec and member.

    Raises:
        SetupError: An older one of these measured something else.
    """
    groups: dict[tuple[str, str], list[Recorded]] = {}
    for recorded in records:
        groups.setdefault((recorded.spec, recorded.member), []).append(recorded)
    for group in groups.values():
        if not all(_same_measured(recorded, group[-1]) for recorded in group[:-1]):
            raise SetupError(
                f"{reference!r} names {len(group)} records of {group[-1].case}, expected one: they "
                "are not known to be of the same weights, options, tokens and hook points; give "
                f"the ids of those that are meant, or record the version under another name:"
                f"{listed(group)}"
            )
    return [group[-1] for group in groups.values()]


def _same_measured(one: Recorded, other: Recorded) -> bool:
    """Return whether two records measured the same SAE on the same tokens; False if unknown."""

    def measured(recorded: Recorded) -> tuple[Any, ...]:
        record = recorded.record
        return (
            _identified(recorded, _files(recorded)), record.tokens_sha256,
            record.checkpoint.options, record.hook, record.hook_out,
        )  # fmt: skip

    is_known = bool(_files(one)) and bool(one.record.tokens_sha256)
    return is_known and measured(one) == measured(other)


def _files(recorded: Recorded) -> Mapping[str, str]:
    """Return the sha256 of each file of a record's checkpoint; empty if unknown."""
    checkpoint: Mapping[str, Any] = recorded.record.provenance.get("checkpoint") or {}
    return checkpoint.get("files") or {}


def _identified(recorded: Recorded, files: Mapping[str, str]) -> tuple[str, ...]:
    """Return the hashes, sorted, with the name of the SAE in a file that holds several."""
    hashes = sorted(files.values())
    file, _, name = recorded.record.checkpoint.reference.rpartition("#")
    return (*hashes, name) if hashes and file.endswith(SUFFIXES) else tuple(hashes)
