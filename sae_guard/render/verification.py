"""Numbers of a record and of a new measurement → lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.measurement import Provenance
from sae_guard.history.confirmation import NumberCheck
from sae_guard.tables import table_lines


def confirmation_table(numbers: Sequence[NumberCheck]) -> Iterator[str]:
    """Write a table with a row for each number, and why it is not confirmed."""
    rows = [
        (
            check.name,
            _digits(check.recorded),
            _digits(check.measured),
            f"{check.difference:.1e}" if check.difference else "",
            "ok" if check.ok else f"DIFFERS{f': {check.why}' if check.why else ''}",
        )
        for check in numbers
    ]
    titles = ("metric", "recorded", "measured", "difference", "")
    return table_lines([titles, *rows], right=(1, 2, 3), indent="  ")


def provenance_differences(recorded: Provenance, now: Provenance) -> Iterator[str]:
    """List other devices, library versions and model names; the tolerance is for these."""
    pairs: list[tuple[str, str | None, str | None]] = [("device", recorded.device, now.device)]
    pairs += [
        (name, recorded.versions.get(name), now.versions.get(name))
        for name in sorted({*recorded.versions, *now.versions})
    ]
    pairs.append(("model", recorded.model.get("name"), now.model.get("name")))
    for name, old, new in pairs:
        if old != new:
            yield f"{name}: {old or 'none'} in the record, {new or 'none'} now"


def _digits(value: float | None) -> str:
    """Write a number with eight digits: devices differ in the last ones."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.8g}"
