"""Make examinations of a sound SAE, or of one that differs in one thing; and diagnose them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sae_guard.core.diagnosis import (
    Examination,
    Fit,
    Trial,
    diagnose,
)

GOOD = Fit(explained_variance=0.9, factor=1.0, constant=0.01, l0=16.0)


def fit(**changes: float) -> Fit:
    """Make a good fit, but for the changes."""
    return replace(GOOD, **changes)


def trial(name: str, **changes: float) -> Trial:
    """Make a trial that fits well, but for the changes."""
    return Trial(name, f"change of {name}", f"remedy of {name}", fit(**changes))


def examined(**changes: Any) -> Examination:
    """Make the examination of a sound TopK SAE, but for the changes."""
    sound = Examination(
        n_tokens=1000, architecture="topk", processing="raw", loaded=GOOD, decoder_norms=(1.0, 1.0)
    )
    return replace(sound, **changes)


def names(examination: Examination) -> tuple[str, ...]:
    """Name what is suspected."""
    return diagnose(None, examination).names


BAD = fit(explained_variance=0.8, factor=0.8, constant=0.08)
