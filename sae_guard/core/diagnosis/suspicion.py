"""`Suspicion`: what a diagnosis is made of."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = (
    "decoder-permuted",
    "encoder-mismatch",
    "other-layer",
    "scale",
    "normalize",
    "pre-bias",
    "topk-as-relu",
    "threshold-dropped",
    "threshold-scale",
    "k",
    "space",
    "bf16-threshold",
    "bos",
    "special-tokens",
    "large-norms",
    "context",
    "worse-than-zeros",
    "misfit",
)
"""What can be suspected. Users read these names and filter by them: they stay as they are."""


@dataclass(frozen=True)
class Suspicion:
    """One probable cause, the numbers that suggest it, and what to try."""

    name: str
    """One of `NAMES`."""
    evidence: str
    remedy: str

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"{self.name!r} is no name of a suspicion")
