"""Thresholds in force that are looser than at the last promoted version of their spec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sae_guard.core.threshold_changes import LoosenedThresholds
from sae_guard.errors import SaeGuardError
from sae_guard.gate.cases import Case
from sae_guard.history import History
from sae_guard.history.threshold_changes import last_promotion, loosened


@dataclass
class Tracking:
    """Comparison of thresholds with those of the last promoted version."""

    loosened: dict[str, LoosenedThresholds] = field(default_factory=dict)
    """Spec, as ``file::document`` → its thresholds that are looser now."""
    warnings: list[str] = field(default_factory=list)
    """Messages on specs that could not be compared."""


def track(history: History, cases: Iterable[Case]) -> Tracking:
    """Compare the thresholds of the cases with those of the last promoted records of each spec.

    It reads promotions and the records that they name, nothing else.
    """
    tracking = Tracking()
    specs = {case.ref.spec: case.spec for case in cases if case.checkpoint is not None}
    if not specs:
        return tracking
    try:
        promotions, unreadable = history.promotions()
    except SaeGuardError as error:
        promotions, unreadable = [], (str(error),)
    tracking.warnings += map(_unreadable, unreadable)
    for name, spec in specs.items():
        promotion = last_promotion(promotions, name)
        if promotion is None:
            continue
        ids = [promoted.record for promoted in promotion.records if promoted.spec == name]
        try:
            records = [history.record(id) for id in ids]
        except SaeGuardError as error:
            tracking.warnings.append(_unreadable(f"{name} at {promotion.label}: {error}"))
            continue
        # Members of a spec are measured by the same thresholds, unless they are of several runs.
        for recorded in records:
            changes = loosened(promotion, recorded, spec.thresholds, spec.pareto)
            if changes is not None:
                tracking.loosened.setdefault(name, changes)
    return tracking


def _unreadable(reason: str) -> str:
    return f"thresholds of the last promoted version cannot be read: {reason}"
