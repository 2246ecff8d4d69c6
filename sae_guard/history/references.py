"""What people call records: ids, hashes, names of versions, and labels that were promoted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sae_guard.errors import SetupError, allowed
from sae_guard.history.record import Promotion, Recorded


def pick(records: Sequence[Recorded], reference: str) -> Recorded:
    """The one that is meant by an id, by its hash or a beginning of it, or by the name.

    Raises:
        SetupError: It is none of them, or several.
    """
    return _one(_found(records, reference), reference)


def holding(promotions: Sequence[Promotion]) -> dict[tuple[str, str], Promotion]:
    """Label and spec → the promotion that holds: the last one."""
    return {(each.label, each.spec): each for each in promotions}


def meant(
    records: Sequence[Recorded], promotions: Sequence[Promotion], reference: str
) -> list[Recorded]:
    """All records that are meant: those that a label was promoted to, one for each spec; or else
    by id, hash, or the name of a version, which may have several.

    Raises:
        SetupError: There are none, or a promoted one is not there.
    """
    held = [each for (label, _), each in holding(promotions).items() if label == reference]
    if not held:
        return _found(records, reference, {each.label for each in promotions})
    by_id = {each.id: each for each in records}
    for each in held:
        if each.record not in by_id:
            raise SetupError(
                f"{reference} of {each.spec} is {each.record}, which is no readable record"
            )
    return [by_id[each.record] for each in held]


def meant_one(
    records: Sequence[Recorded], promotions: Sequence[Promotion], reference: str
) -> Recorded:
    """As `meant`, where there has to be one; raises `SetupError` where there are several too."""
    return _one(meant(records, promotions, reference), reference)


def meant_for(
    records: Sequence[Recorded], promotions: Sequence[Promotion], reference: str, spec: str
) -> Recorded:
    """The record of a spec that is meant; an id means its record, whichever spec that is of.

    Args:
        records: All there are.
        promotions: The same.
        reference: As `meant` takes it.
        spec: ``file::name``.

    Raises:
        SetupError: It is none, or several, or of other specs only.
    """
    found = meant(records, promotions, reference)
    own = [each for each in found if each.spec == spec]
    if len(found) == 1 and not own and _is_id(found[0], reference):
        return found[0]
    if not own:
        others = ", ".join(sorted({each.spec for each in found}))
        raise SetupError(f"{reference!r} has no record by {spec}, but by {others}")
    return _one(own, reference)


def _found(
    records: Sequence[Recorded], reference: str, labels: Iterable[str] = ()
) -> list[Recorded]:
    found = [each for each in records if each.id == reference]
    found = found or [each for each in records if each.record.name == reference]
    if not found and re.fullmatch("[0-9a-f]{4,12}", reference):
        found = [each for each in records if each.short.startswith(reference)]
    if not found:
        names = {*labels, *(each.record.name for each in records)}
        hint = allowed(reference, names) if names else "there are no records"
        raise SetupError(f"no record {reference!r}: give an id, its hash, or a name; {hint}")
    return found


def _is_id(recorded: Recorded, reference: str) -> bool:
    return reference in (recorded.id, recorded.short)


def _one(found: Sequence[Recorded], reference: str) -> Recorded:
    if len(found) > 1:
        listed = "".join(
            f"\n  {each.id}  {each.spec} [{each.record.checkpoint.label}]" for each in found[-8:]
        )
        raise SetupError(f"{reference!r} names {len(found)} records; give the id of one:{listed}")
    return found[0]
