"""Records, two metrics against each other → plots, one for what is comparable. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_guard.core.pareto import Pareto, Point
from sae_guard.errors import SetupError
from sae_guard.history import Recorded
from sae_guard.render.pareto import plotted

_Group = tuple[str, ...]


def frontiers(records: Sequence[Recorded], pareto: Pareto) -> Iterator[str]:
    """A plot of the records of each spec that are of the same hook point, tokens and formulas.

    Args:
        records: In the order of time.
        pareto: Of which two metrics.

    Raises:
        SetupError: No record has both.
    """
    groups: dict[_Group, list[Point]] = {}
    for each in records:
        x, y = (each.record.metrics.get(name) for name in (pareto.x, pareto.y))
        if x and y and x.value is not None and y.value is not None:
            versions = f"formula versions {x.formula_version} and {y.formula_version}"
            point = Point(each.named, x.value, y.value)
            groups.setdefault((*_place(each), versions), []).append(point)
    if not groups:
        raise SetupError(f"no record has both {pareto.x} and {pareto.y}")
    for (spec, hook, tokens, versions), points in groups.items():
        yield f"{pareto.y} against {pareto.x}  {spec}"
        yield f"  {hook}, tokens {tokens[:8] or '?'}, {versions}"
        yield from plotted(pareto, points)
        yield ""


def _place(recorded: Recorded) -> tuple[str, str, str]:
    record = recorded.record
    hook = f"{record.hook} → {record.hook_out}" if record.hook_out else record.hook
    return recorded.spec, hook, record.provenance["corpus"].get("sha256") or ""
