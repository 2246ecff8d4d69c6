"""Signatures of wrong loading and wrong use are recognised in measurements and examinations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from sae_guard.core.diagnosis import (
    Diagnosis,
    Group,
    Suspicion,
    diagnose,
)
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import COLUMNS
from sae_guard.testing import measurements
from tests.helpers.examinations import BAD, examined, names, trial

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
    columns = {**dict.fromkeys(COLUMNS, 100.0), **SOUND, **sums}
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
def test_symptoms_of_a_wrong_load(sums: dict[str, float], evidence: str, remedy: str) -> None:
    (suspicion,) = diagnose(measured(checkpoint={}, corpus={}, **sums)).suspicions
    assert evidence in suspicion.evidence
    assert remedy in suspicion.remedy


@pytest.mark.parametrize(
    ("checkpoint", "corpus", "remedy"),
    [
        ({"context_size": 64}, {"context": 128}, "context: 64"),
        ({"context_size": 1}, {"context": 2}, "context: 1"),
    ],
)
def test_a_context_longer_than_the_training_is_suspected(
    checkpoint: dict[str, Any], corpus: dict[str, Any], remedy: str
) -> None:
    (suspicion,) = diagnose(measured(checkpoint=checkpoint, corpus=corpus)).suspicions
    assert remedy in suspicion.remedy


@given(measurements())
def test_a_broken_measurement_is_diagnosed_without_an_error(measurement: Measurement) -> None:
    sums = {**measurement.sums, "l2_ratio": measurement.sums["l2_ratio"] * np.nan}
    for suspicion in diagnose(replace(measurement, sums=sums)).suspicions:
        assert suspicion.evidence
        assert suspicion.remedy


@pytest.mark.parametrize(
    ("kind", "name"),
    [("bos", "bos"), ("first", "bos"), ("special", "special-tokens"), ("large", "large-norms")],
)
def test_badly_reconstructed_tokens_are_suspected(kind: str, name: str) -> None:
    group = Group(kind, tokens=0.01, error=0.6, relative=0.5, ordinary=0.1)
    assert names(examined(groups=(group,))) == (name,)
    (suspicion,) = diagnose(None, examined(groups=(group,))).suspicions
    assert "1.0% of the scored tokens and 60% of the squared error" in suspicion.evidence
    for as_good in (replace(group, relative=0.15, error=0.4), replace(group, error=0.03)):
        assert names(examined(groups=(as_good,))) == ()
    # Special tokens that a spec includes and that are nearly all of the error hide all others.
    hides = replace(group, relative=0.01)
    assert names(examined(groups=(hides,))) == ((name,) if kind in ("bos", "special") else ())
    # Attention sinks are hard for every SAE: they matter once they are most of the error.
    smaller_error = replace(group, error=0.4)
    assert names(examined(groups=(smaller_error,))) == (() if kind == "large" else (name,))


def test_rounded_thresholds_matter_where_latents_are_near_them() -> None:
    assert names(examined(near_thresholds=0.03)) == ("bf16-threshold",)
    assert names(examined(near_thresholds=0.01)) == ()


def test_an_examination_replaces_symptoms_of_the_measurement() -> None:
    dense = measured(checkpoint={}, l0=25000.0, cosine=20.0)
    assert diagnose(dense).names == ("misfit", "threshold-dropped")
    assert diagnose(dense, examined()).names == ()
    assert diagnose(dense, examined(loaded=BAD, trials=(trial("k"),))).names == ("k",)
    harmful = measured(ce_patched=950.0)
    assert diagnose(harmful, examined()).names == ("worse-than-zeros",)


def test_a_thorough_diagnosis_lists_the_trials() -> None:
    trials = (trial("k", explained_variance=0.5), trial("pre-bias", explained_variance=0.95))
    quick = examined(loaded=replace(BAD, kl=0.25), trials=trials)
    assert diagnose(None, quick).tried == ()
    diagnosis = diagnose(None, replace(quick, thorough=True))
    assert diagnosis.tried == (
        "tried on 1,000 tokens; change of pre-bias fits",
        "                                EV  factor  constant    L0      KL",
        "as loaded                   0.8000   0.800      8.0%  16.0  0.2500",
        "change of pre-bias <- fits  0.9500   1.000      1.0%  16.0",
        "change of k                 0.5000   1.000      1.0%  16.0",
    )
    healthy = diagnose(None, examined(thorough=True))
    assert healthy.tried[0] == (
        "tried on 1,000 tokens; nothing fits better than what was loaded"
    )  # fmt: skip


def test_a_diagnosis_is_written_as_lines() -> None:
    diagnosis = Diagnosis((Suspicion("scale", "‖x̂‖", "this", (("scale", "2"),)),), ("a", "b"))
    assert str(diagnosis).splitlines() == ["probably: scale: ‖x̂‖", "  try: this", "a", "b"]
    assert str(Diagnosis()) == "nothing is suspected"


def test_a_shell_appends_its_own_spelling_of_the_options() -> None:
    suspicions = (Suspicion("k", "L0", "this", (("k", "32"),)), Suspicion("scale", "‖x̂‖", "that"))
    diagnosis = Diagnosis(suspicions, ("a",))

    def spelling(suspicion: Suspicion) -> str:
        return " ".join(f"/{option}:{value}" for option, value in suspicion.options)

    assert list(diagnosis.lines("probably", spelling)) == [
        "probably: k: L0", "  try: this (`/k:32`)", "probably: scale: ‖x̂‖", "  try: that", "a",
    ]  # fmt: skip
