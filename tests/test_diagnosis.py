"""Signatures of a wrong load are recognised, and a sound measurement raises no suspicion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from sae_guard.diagnosis import Diagnosis, diagnose
from sae_guard.measurement import Measurement, Provenance
from sae_guard.metrics.table import COLUMNS
from sae_guard.testing import measurements

SOUND = {
    "n_tokens": 100.0, "kl": 10.0, "ce_clean": 300.0, "ce_patched": 310.0, "ce_zero": 900.0,
    "ce_mean": 700.0, "l0": 1600.0, "l1": 3000.0, "sq_error": 100.0, "sq_deviation": 1000.0,
    "cosine": 95.0, "l2_ratio": 96.0,
}  # fmt: skip


def measured(
    *,
    checkpoint: dict[str, Any] | None = None,
    corpus: dict[str, Any] | None = None,
    **sums: float,
) -> Measurement:
    provenance = Provenance(
        model={}, checkpoint=checkpoint or {}, corpus={"n_sequences": 2, **(corpus or {})},
        hook="h", mean_sha256="", formula_versions={}, versions={}, device="cpu",
    )  # fmt: skip
    columns = {**SOUND, **sums}
    return Measurement(
        np.arange(2),
        {name: np.full(2, columns[name]) for name in COLUMNS},
        np.zeros(512, dtype=np.int64),
        provenance,
    )


def test_a_sound_measurement_is_not_suspected() -> None:
    fits = {"prepend_bos": True, "context_size": 128, "k": 16}
    assert diagnose(measured()) == Diagnosis()
    same = {"prepend_bos": True, "context": 128}
    assert diagnose(measured(checkpoint=fits, corpus=same)) == Diagnosis()


@pytest.mark.parametrize(
    ("sums", "evidence", "remedy"),
    [
        ({"ce_patched": 950.0}, "patched CE 9.500 ≥ zero-ablated CE 9.000", "hook point"),
        ({"cosine": 20.0}, "cos(x, x̂) = 0.20", "decoder belongs to the encoder"),
        ({"l2_ratio": 1130.0}, "‖x̂‖/‖x‖ = 11.30", "normalize"),
        ({"l2_ratio": 10.0}, "‖x̂‖/‖x‖ = 0.10", "normalize"),
        ({"l0": 25000.0}, "L0 = 250 of 512 latents", "TopK or JumpReLU SAE read as ReLU"),
    ],
)
def test_signatures(sums: dict[str, float], evidence: str, remedy: str) -> None:
    (found,) = diagnose(measured(checkpoint={}, corpus={}, **sums)).suspicions
    assert evidence in found.evidence
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("checkpoint", "corpus", "remedy"),
    [
        ({"context_size": 64}, {"context": 128}, "context: 64"),
        ({"context_size": 1}, {"context": 2}, "context: 1"),
    ],
)
def test_contradictions(checkpoint: dict[str, Any], corpus: dict[str, Any], remedy: str) -> None:
    (found,) = diagnose(measured(checkpoint=checkpoint, corpus=corpus)).suspicions
    assert remedy in found.remedy


@given(measurements())
def test_a_broken_measurement_is_diagnosed_without_an_error(measurement: Measurement) -> None:
    sums = {**measurement.sums, "l2_ratio": measurement.sums["l2_ratio"] * np.nan}
    for found in diagnose(replace(measurement, sums=sums)).suspicions:
        assert found.evidence
        assert found.remedy
