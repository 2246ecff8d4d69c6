"""What the firing counts of latents tell of a bound on dead or dense ones, and what they do not."""

from __future__ import annotations

import math

import numpy as np

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics.table import metric


def too_few_tokens(measurement: Measurement, name: str, most: float | None) -> str | None:
    """Why the tokens do not show that more than ``most`` of the latents are dead; None if they do.

    A latent that is silent on n tokens may be rare and not dead. Of latents that fire with
    frequencies f, the expected number of those silent on n tokens that fire on the n next is
    Σ (1−f)ⁿ·(1−(1−f)ⁿ) ≤ Σ n·f·(1−f)ⁿ⁻¹, the expected number of those that fired exactly once
    (after Good 1953, Biometrika 40, 237; Good and Toulmin 1956, Biometrika 43, 45). So the latents
    that fired once bound what another such sample would wake, and where it could bring the share
    within the bound, there is no verdict yet. A share within it stays there: more tokens only wake.

    Args:
        measurement: Its firing counts.
        name: Of the metric; there is nothing to say of others than the share of silent latents.
        most: The bound.
    """
    if most is None or metric(name).firing_above != 0:
        return None
    firings, n = measurement.firings, measurement.n_tokens
    silent, once = int((firings == 0).sum()), int((firings == 1).sum())
    if silent / len(firings) <= most or (silent - once) / len(firings) > most:
        return None
    return (
        f"{name} needs {2 * n:,} scored tokens, {n:,} were measured: {silent:,} of "
        f"{len(firings):,} latents are silent, which is more than {most:.12g} of them, but "
        f"{once:,} fired only once, and as many silent ones may fire on as many tokens again: "
        "raise `sequences` to "
        f"{2 * measurement.n_sequences:,} in the spec"
    )


def marginal(measurement: Measurement, name: str, most: float | None) -> str:
    """Why the share of dense latents is near to being another, if ``most`` is that near.

    A frequency f on n tokens has a standard error of √(f·(1−f)/n); latents within two of them of
    the frequency that counts as dense may be on its other side.
    """
    limit = metric(name).firing_above
    if most is None or not limit:
        return ""
    frequency = measurement.firings / measurement.n_tokens
    error = math.sqrt(limit * (1 - limit) / measurement.n_tokens)
    surely, perhaps = (float(np.mean(frequency > limit + step)) for step in (2 * error, -2 * error))
    if not surely <= most < perhaps:
        return ""
    near = round((perhaps - surely) * len(frequency))
    return f"within what {near:,} latents decide that fire on {limit:.0%} ± {2 * error:.2%}"
