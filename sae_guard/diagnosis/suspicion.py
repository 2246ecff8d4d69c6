"""`Suspicion`: what a diagnosis is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suspicion:
    """One probable cause, the numbers that suggest it, and what to try."""

    name: str
    """Short and stable, such as ``other-layer``."""
    evidence: str
    remedy: str
