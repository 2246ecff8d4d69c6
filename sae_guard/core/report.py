"""`Outcome`: what a test found, as builtins, which is all that may cross between processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from sae_guard.core.metrics import metric
from sae_guard.core.verdicts import Verdict

PREFIX = "sae_guard."


@dataclass(frozen=True)
class Outcome:
    """What one test found of one checkpoint, flat. Floats may be NaN or infinite."""

    spec: str
    """Display path of the spec file."""
    name: str
    """Of the document in it; the hook point unless the document is named."""
    checkpoint: str
    metric: str
    """Or ``load.`` and a part of the load contract, ``controls`` or ``pareto``."""
    verdict: str
    kind: str = "threshold"
    """Or ``contract``, ``controls``, ``pareto``, or ``metric``: a value without a threshold, whose
    verdict is empty."""
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    max: float | None = None
    min: float | None = None
    warn_max: float | None = None
    warn_min: float | None = None
    confidence: float | None = None
    """Of the interval, two-sided."""
    on_undecided: str = ""
    """What becomes of ``undecided``: fail or warn; of thresholds that can be."""
    marginal: str = ""
    """Why the verdict is near to being another, if it is."""
    seen_sequences: int | None = None
    """Of `of_sequences`: what was seen when an early verdict came to stand. Its value is an
    estimate from these, not the metric."""
    of_sequences: int | None = None
    alpha: float | None = None
    """Chance that an early verdict is not that on the whole set."""
    audit: str = ""
    """What had been said early, and whether it holds on the whole set."""
    side: str | None = None
    bound: float | None = None
    """The bound that is violated or nearest."""
    headroom: float | None = None
    n_tokens: int | None = None
    n_sequences: int | None = None
    change: str = ""
    """Of a threshold on a change: ``difference`` in the metric's unit, or ``share`` of what it was.
    Value, interval, bounds and headroom are of the change."""
    before: float | None = None
    """The metric at the baseline."""
    after: float | None = None
    p_value: float | None = None
    """Two-sided, of no change at all."""
    baseline: str = ""
    """Which version was before."""
    note: str = ""
    """What else differs from the baseline and may move numbers a little."""
    cause: str | None = None
    message: str = ""
    where: str = ""
    provenance: str = ""
    """JSON."""
    controls: str = ""
    """Of ``controls``: the checkpoint and its controls → metric → value, as JSON."""
    pareto: str = ""
    """JSON of a `ParetoVerdict`, of ``pareto``."""
    worst: str = ""
    """JSON of `sae_guard.core.worst_tokens.Worst`, on one outcome of each case."""
    diagnosis: str = ""
    """JSON of a `Diagnosis`, where something is suspected or was tried: on one outcome of each
    checkpoint at a spec."""

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        *,
        spec: str,
        name: str,
        checkpoint: str,
        provenance: str = "",
        worst: str = "",
        diagnosis: str = "",
    ) -> Outcome:
        """The outcome of a verdict."""
        threshold, estimate = verdict.threshold, verdict.estimate
        measured: dict[str, Any] = {}
        if (moved := verdict.change) is not None:
            measured = {
                "before": moved.before,
                "after": moved.after,
                "p_value": moved.p_value,
                "baseline": moved.baseline,
                "note": "; ".join(moved.noted),
            }
        if estimate is not None:
            side, bound = threshold.nearest_bound(estimate.value)
            measured |= {
                **asdict(estimate),
                "side": side,
                "bound": bound,
                "headroom": threshold.headroom(estimate.value),
            }
        return cls(
            spec=spec,
            name=name,
            checkpoint=checkpoint,
            metric=str(threshold.target),
            verdict=verdict.status,
            unit=metric(threshold.target.metric).unit,
            max=threshold.max,
            min=threshold.min,
            warn_max=threshold.warn_max,
            warn_min=threshold.warn_min,
            on_undecided=threshold.on_undecided if threshold.confidence else "",
            marginal=verdict.marginal,
            seen_sequences=verdict.prefix.seen if verdict.prefix else None,
            of_sequences=verdict.prefix.of if verdict.prefix else None,
            alpha=verdict.prefix.alpha if verdict.prefix else None,
            audit=verdict.audit,
            change=threshold.change,
            cause=verdict.cause,
            message=verdict.message,
            where=threshold.where,
            provenance=provenance,
            worst=worst,
            diagnosis=diagnosis,
            **measured,
        )

    @property
    def passes(self) -> bool:
        """Whether the release may go on: no other verdict is a pass."""
        undecided = self.verdict == "undecided" and self.on_undecided == "warn"
        return undecided or self.verdict in ("pass", "warn")

    def to_properties(self) -> list[tuple[str, str | int | float]]:
        """For ``item.user_properties``: absent values are left out, the rest are exact builtins.

        execnet refuses subclasses such as ``numpy.float64``, and under xdist a report it cannot
        carry is a test that never happened.
        """
        return [
            (PREFIX + name, _builtin(value))
            for name, value in asdict(self).items()
            if value is not None and value != ""
        ]

    @classmethod
    def from_properties(cls, properties: Iterable[tuple[str, Any]]) -> Outcome | None:
        """The outcome in a report's ``user_properties``; None when there is none or half of one."""
        known = {field.name for field in fields(cls)}
        found = {
            name.removeprefix(PREFIX): value
            for name, value in properties
            if name.startswith(PREFIX)
        }
        complete = {"spec", "name", "checkpoint", "metric", "verdict"} <= found.keys() <= known
        return cls(**found) if complete else None


def _builtin(value: Any) -> str | int | float:
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot cross processes")
