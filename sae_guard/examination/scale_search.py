"""The input scale that an SAE fits best, searched for."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from sae_guard.core.diagnosis import Fit
from sae_guard.engine import Place
from sae_guard.examination.fitting import fitted
from sae_guard.examination.variants import scaled
from sae_guard.sae import SAE

_OCTAVES = range(-8, 9)
_STEPS = 8
_GOLDEN = (math.sqrt(5) - 1) / 2


def best_scale(
    sae: SAE, place: Place, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]
) -> float:
    """What the input has to be multiplied by, and the reconstruction divided by.

    The octave that explains most holds it. In it the constant part of the error is least where the
    training had it; explained variance may be largest elsewhere, where shrinkage is made up for.
    """

    def fit(exponent: float) -> Fit:
        return fitted(scaled(sae, place, "", 2.0**exponent).sae, x, y)

    explained = {octave: fit(octave).explained_variance for octave in _OCTAVES}
    finite = {octave: value for octave, value in explained.items() if math.isfinite(value)}
    middle = max(finite, key=lambda octave: finite[octave], default=0)
    exponent = _least(lambda exponent: fit(exponent).constant, middle - 1.0, middle + 1.0)
    return float(2.0**exponent)


def _least(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between the two is least, by the golden section."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(right)
    return left if at_left < at_right else right
