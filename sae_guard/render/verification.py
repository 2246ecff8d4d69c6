"""The numbers of a record beside those that were measured again → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.measurement import Provenance
from sae_guard.history.confirmation import NumberCheck
from sae_guard.tables import table_lines


def confirmed(numbers: Sequence[NumberCheck]) -> Iterator[str]:
    """A row for each number, and why it is not confirmed."""
    rows = [
        (
            each.name,
            _digits(each.recorded),
            _digits(each.measured),
            f"{each.difference:.1e}" if each.difference else "",
            "ok" if each.ok else f"DIFFERS{f': {each.why}' if each.why else ''}",
        )
        for each in numbers
    ]
    titles = ("metric", "recorded", "measured", "difference", "")
    return table_lines([titles, *rows], right=(1, 2, 3), indent="  ")


def differently_made(recorded: Provenance, now: Provenance) -> Iterator[str]:
    """What another device or version measured, for which there is a tolerance."""
    pairs: list[tuple[str, str | None, str | None]] = [("device", recorded.device, now.device)]
    pairs += [
        (name, recorded.versions.get(name), now.versions.get(name))
        for name in sorted({*recorded.versions, *now.versions})
    ]
    pairs.append(("model", recorded.model.get("name"), now.model.get("name")))
    for name, was, is_ in pairs:
        if was != is_:
            yield f"{name}: {was or 'none'} in the record, {is_ or 'none'} now"


def _digits(value: float | None) -> str:
    """More digits than elsewhere, as differences are in the last ones."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.8g}"
