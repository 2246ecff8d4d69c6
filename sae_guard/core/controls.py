"""The numbers of a checkpoint beside those of its controls: how much of them takes no learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sae_guard.core.measurement import Measurement
from sae_guard.errors import UndefinedMetricError

SHOWN = ("kl", "reconstruction_score", "l0", "explained_variance")
CHECKPOINT, RANDOM_ERROR = "checkpoint", "random error"

Row = Mapping[str, float | None]
"""Metric → value; None where it has none."""


def row(measurement: Measurement) -> Row:
    """What is shown of an SAE.

    Raises:
        UndefinedMetricError: It has no KL; others that it has not are None.
    """
    return {
        "kl": measurement["kl"],
        **{name: _value(measurement, name) for name in SHOWN if name != "kl"},
    }


def row_of_random_error(measurement: Measurement) -> Row:
    """The same of x + ‖x−x̂‖·u: as far from x as the SAE's x̂ is, and without latents."""
    return {
        **dict.fromkeys(SHOWN),
        "kl": measurement["kl_random_error"],
        "explained_variance": _value(measurement, "explained_variance"),
    }


def not_beaten(own: Row, baselines: Mapping[str, Row]) -> Iterable[str]:
    """What to say of the baselines whose KL the checkpoint's is not below."""
    for name, row in baselines.items():
        mine, theirs = own["kl"], row["kl"]
        if mine is None or theirs is None or not mine < theirs:
            yield f"KL {_number(mine)} is not below that of the {name}, {_number(theirs)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _value(measurement: Measurement, name: str) -> float | None:
    try:
        return measurement[name]
    except UndefinedMetricError:
        return None
