"""What a threshold looks at: a metric's mean, a quantile of its tokens or its worst sequence, over
all scored tokens or a slice of them; or how far that moved since a baseline."""

from sae_guard.core.targets.estimates import Terms, beyond, estimate, present, terms
from sae_guard.core.targets.slices import Slice
from sae_guard.core.targets.view import CHANGE, QUANTILE, WORST, View, level

__all__ = [
    "CHANGE",
    "QUANTILE",
    "WORST",
    "Slice",
    "Terms",
    "View",
    "beyond",
    "estimate",
    "level",
    "present",
    "terms",
]
