"""Compare the numbers of a checkpoint with controls, which reach theirs without any learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sae_guard.core.measurement import Measurement

CONTROL_METRICS = ("kl", "reconstruction_score", "l0", "explained_variance")
CHECKPOINT, RANDOM_ERROR = "checkpoint", "random error"

Row = Mapping[str, float | None]
"""Metric → value; None where it is undefined."""


def row(measurement: Measurement) -> Row:
    """Return the metrics of an SAE that are compared with controls.

    Raises:
        UndefinedMetricError: The KL is undefined; another undefined metric is None.
    """
    return {
        "kl": measurement["kl"],
        **{name: measurement.get(name) for name in CONTROL_METRICS if name != "kl"},
    }


def row_of_random_error(measurement: Measurement) -> Row:
    """Return the metrics of the control x + ‖x−x̂‖·u, u a random direction for each token.

    It is as far from x as the SAE's reconstruction x̂, so its explained variance is the same; it has
    no latents.
    """
    return {
        **dict.fromkeys(CONTROL_METRICS),
        "kl": measurement["kl_random_error"],
        "explained_variance": measurement.get("explained_variance"),
    }


def not_beaten(own: Row, baselines: Mapping[str, Row]) -> Iterable[str]:
    """Yield a message for each baseline whose KL is not above the checkpoint's."""
    for name, row in baselines.items():
        own_kl, baseline_kl = own["kl"], row["kl"]
        # Written so that a NaN counts as not below.
        if own_kl is None or baseline_kl is None or not own_kl < baseline_kl:
            yield f"KL {_number(own_kl)} is not below that of the {name}, {_number(baseline_kl)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
