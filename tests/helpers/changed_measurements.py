"""Change one thing of a measurement: its sums, or what it says that it is of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sae_guard.core.measurement import Measurement
from sae_guard.core.metrics import METRICS

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "tokens": (
        {"corpus": {"n_sequences": 8, "sha256": "4" * 64}},
        "sha256 of the tokens was 2222222222222222… and is 4444444444444444…",
    ),
    "modules": (
        {"corpus": {"n_sequences": 8, "sha256": "4" * 64, "source": {"modules": ["csv"]}}},
        "the text of `data.modules` depends on the version of Python: measure both under one",
    ),
    "bos": (
        {"corpus": {"n_sequences": 8, "sha256": "2" * 64, "prepend_bos": False}},
        "policy: prepend_bos was not set and is false",
    ),
    "hook": (
        {"hook": "blocks.0.hook_resid_post"},
        "hook was blocks.1.hook_resid_post and is blocks.0.hook_resid_post",
    ),
    "hook_out": ({"hook_out": "blocks.1.hook_mlp_out"}, "hook_out was not set and is blocks.1"),
    "dtype": (
        {"model": {"name": "gpt2", "dtype": "bfloat16"}},
        "model.dtype was float32 and is bfloat16",
    ),
    "processing": (
        {"model": {"name": "gpt2", "dtype": "float32", "processing": "hooked"}},
        "model.processing was not set and is hooked",
    ),
    "formula": (
        {"formula_versions": {**dict.fromkeys(METRICS, 1), "kl": 2}},
        "the formula version of kl was 1 and is 2",
    ),
}
"""Case → parts of the provenance that make `ordinary` another thing, and how that is said."""


def worse(measurement: Measurement, kl: float = 1.1) -> Measurement:
    """Multiply the KL by so much, by more on some sequences than on others."""
    uneven = kl + np.linspace(-0.02, 0.02, measurement.n_sequences)
    return replace(measurement, sums={**measurement.sums, "kl": measurement.sums["kl"] * uneven})


def with_provenance(measurement: Measurement, **parts: Any) -> Measurement:
    """Replace parts of the provenance."""
    return replace(measurement, provenance=replace(measurement.provenance, **parts))


def scaled(measurement: Measurement, **factors: float) -> Measurement:
    """Multiply columns by so much, by more on some sequences than on others."""
    uneven = np.linspace(-0.02, 0.02, measurement.n_sequences)
    changed = {name: measurement.sums[name] * (f + uneven) for name, f in factors.items()}
    return replace(measurement, sums={**measurement.sums, **changed})


def changed(m: Measurement, **columns: object) -> Measurement:
    """Replace some columns."""
    sums = {k: np.asarray(columns.get(k, v), dtype=np.float64) for k, v in m.sums.items()}
    return replace(m, sums=sums)
