"""How many examples a property is tried on."""

from __future__ import annotations

from hypothesis import settings


def examples(share: float) -> int:
    """Give this share of the examples that the Hypothesis profile asks for."""
    profile = settings.default
    assert profile is not None
    return max(1, round(share * profile.max_examples))
