"""Look up records by what people call them: an id, a hash, a version's name, a promoted label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sae_guard.errors import SetupError, allowed
from sae_guard.history.record import Promotion, Recorded
from sae_guard.history.store import Contents


def pick(records: Sequence[Recorded], reference: str) -> Recorded:
    """Return the record with this id, hash or name, ignoring promotions.

    Args:
        records: All records.
        reference: Id, hash, first digits of the hash (four or more), or name of a version.

    Raises:
        SetupError: No record matches, or several do.
    """
    return _require_one(_matching(records, reference), reference)


def promotions_in_force(promotions: Sequence[Promotion]) -> dict[tuple[str, str], Promotion]:
    """Map label and spec to the promotion in force, the last one.

    Args:
        promotions: All promotions in the order of time.
    """
    return {(promotion.label, promotion.spec): promotion for promotion in promotions}


def promoted_labels(promotions: Sequence[Promotion]) -> dict[str, list[str]]:
    """Map the id of each promoted record to the labels that are in force."""
    labels: dict[str, list[str]] = {}
    for (label, _), promotion in promotions_in_force(promotions).items():
        labels.setdefault(promotion.record, []).append(label)
    return labels


def find_records(contents: Contents, reference: str) -> list[Recorded]:
    """Return all records that a reference names.

    Args:
        contents: What the history holds.
        reference: A promoted label, which names one record per spec; or else an id, a hash, first
            digits of a hash, or the name of a version, which may name several records.

    Raises:
        SetupError: There is no such record, or a promoted one cannot be read.
    """
    all_in_force = promotions_in_force(contents.promotions).values()
    in_force = [promotion for promotion in all_in_force if promotion.label == reference]
    if not in_force:
        labels = {promotion.label for promotion in contents.promotions}
        return _matching(contents.records, reference, labels)
    by_id = {recorded.id: recorded for recorded in contents.records}
    for promotion in in_force:
        if promotion.record not in by_id:
            raise SetupError(
                f"{reference} of {promotion.spec} is {promotion.record}, which is no readable "
                "record"
            )
    return [by_id[promotion.record] for promotion in in_force]


def find_one_record(contents: Contents, reference: str) -> Recorded:
    """Return the only record that a reference names, in the sense of `find_records`.

    Raises:
        SetupError: The reference names no record, or several.
    """
    return _require_one(find_records(contents, reference), reference)


def find_spec_record(contents: Contents, reference: str, spec: str) -> Recorded:
    """Return the record of a spec that a reference names.

    Args:
        contents: What the history holds.
        reference: Reference, as `find_records` takes it. An id names its record even if that is of
            another spec.
        spec: ``file::name``.

    Raises:
        SetupError: The reference names no record of the spec, or several.
    """
    matches = find_records(contents, reference)
    of_spec = [recorded for recorded in matches if recorded.spec == spec]
    if len(matches) == 1 and not of_spec and _is_id(matches[0], reference):
        return matches[0]
    if not of_spec:
        other_specs = ", ".join(sorted({recorded.spec for recorded in matches}))
        raise SetupError(f"{reference!r} has no record by {spec}, but by {other_specs}")
    return _require_one(of_spec, reference)


def _matching(
    records: Sequence[Recorded], reference: str, labels: Iterable[str] = ()
) -> list[Recorded]:
    """Return the records with this id, or else this name, or else this hash; at least one."""
    # In this order, because a name may look like the first digits of a hash.
    matches = [recorded for recorded in records if recorded.id == reference]
    matches = matches or [recorded for recorded in records if recorded.record.name == reference]
    if not matches and re.fullmatch("[0-9a-f]{4,12}", reference):
        matches = [recorded for recorded in records if recorded.short.startswith(reference)]
    if not matches:
        names = {*labels, *(recorded.record.name for recorded in records)}
        hint = allowed(reference, names) if names else "there are no records"
        raise SetupError(f"no record {reference!r}: give an id, its hash, or a name; {hint}")
    return matches


def _is_id(recorded: Recorded, reference: str) -> bool:
    return reference in (recorded.id, recorded.short)


def _require_one(matches: Sequence[Recorded], reference: str) -> Recorded:
    if len(matches) > 1:
        # The last eight: the newest are the likeliest, and hundreds would fill the screen.
        listed = "".join(
            f"\n  {recorded.id}  {recorded.spec} [{recorded.record.checkpoint.label}]"
            for recorded in matches[-8:]
        )
        raise SetupError(f"{reference!r} names {len(matches)} records; give the id of one:{listed}")
    return matches[0]
