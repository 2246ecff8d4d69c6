"""Specs × checkpoints → the cases to measure, and why the others are none. No torch here."""

from sae_guard.plan.metadata import check_metadata
from sae_guard.plan.planning import (
    Candidate,
    Idle,
    Plan,
    candidates,
    check_named,
    decided,
    mismatch,
    plan,
)

__all__ = [
    "Candidate",
    "Idle",
    "Plan",
    "candidates",
    "check_metadata",
    "check_named",
    "decided",
    "mismatch",
    "plan",
]
