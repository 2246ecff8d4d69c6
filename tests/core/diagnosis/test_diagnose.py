"""Signatures of wrong loading and wrong use are recognised; what is sound is not suspected."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from sae_guard.core.diagnosis import (
    OTHER_PLACE,
    SCALED_DECODER,
    Diagnosis,
    Examination,
    Fit,
    Group,
    Pairing,
    Suspicion,
    Trial,
    diagnose,
)
from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import COLUMNS
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


GOOD = Fit(explained_variance=0.9, factor=1.0, constant=0.01, l0=16.0)


def fit(**changes: float) -> Fit:
    return replace(GOOD, **changes)


def trial(name: str, **changes: float) -> Trial:
    return Trial(name, f"change of {name}", f"remedy of {name}", fit(**changes))


def examined(**changes: Any) -> Examination:
    """One of a sound TopK SAE, but for the changes."""
    sound = Examination(
        n_tokens=1000, architecture="topk", processing="raw", loaded=GOOD, decoder_norms=(1.0, 1.0)
    )
    return replace(sound, **changes)


def names(examination: Examination) -> tuple[str, ...]:
    return diagnose(None, examination).names


@pytest.mark.parametrize("factor", [0.96, 1.0, 1.05])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
def test_a_sound_examination_is_not_suspected(factor: float, architecture: str) -> None:
    loaded = fit(factor=factor, constant=0.03)
    # What explains more by other numbers of latents, or other scales, is no better load.
    tempting = (trial("k", explained_variance=0.99), trial("scale", explained_variance=0.99))
    assert names(examined(architecture=architecture, loaded=loaded, trials=tempting)) == ()


@pytest.mark.parametrize(
    ("architecture", "factor", "sound"),
    [
        ("topk", 0.959, False), ("topk", 1.051, False), ("jumprelu", 1.2, False),
        ("standard", 0.959, False), ("standard", 1.6, True), ("standard", 1.61, False),
        ("topk", math.nan, False), ("standard", math.nan, False), ("topk", math.inf, False),
    ],
)  # fmt: skip
def test_factors_that_training_leaves(architecture: str, factor: float, sound: bool) -> None:
    assert examined(architecture=architecture, loaded=fit(factor=factor)).sound is sound


def test_constant_error_and_error_along_ones_are_not_sound() -> None:
    assert not examined(loaded=fit(constant=0.031)).sound
    assert not examined(loaded=fit(constant=math.nan)).sound
    assert not examined(ones_in_error=0.21).sound
    assert examined(loaded=fit(factor=0.5), reconstructs=False).sound


def test_errors_of_rounding_are_no_misfit() -> None:
    loaded = fit(explained_variance=1 - 1e-9, constant=0.9)
    better = (trial(OTHER_PLACE, explained_variance=1.0, constant=0.0),)
    assert names(examined(loaded=loaded, trials=better)) == ()


BAD = fit(explained_variance=0.8, factor=0.8, constant=0.08)


@pytest.mark.parametrize(
    "name", ["pre-bias", "normalize", "scale", "space", "k", "topk-as-relu", OTHER_PLACE]
)
def test_what_fits_is_named_with_its_numbers(name: str) -> None:
    found = diagnose(None, examined(loaded=BAD, trials=(trial("k", factor=0.9), trial(name))))
    (suspicion,) = found.suspicions
    assert suspicion.name == name
    assert f"with change of {name} explained variance is 0.900 (as loaded 0.800)" in (
        suspicion.evidence
    )
    assert "best factor for x̂ 1.00 (0.80)" in suspicion.evidence
    assert suspicion.remedy == f"remedy of {name}"


@pytest.mark.parametrize(
    "almost",
    [
        trial("pre-bias", factor=0.95),
        trial("pre-bias", factor=math.nan),
        trial("pre-bias", constant=0.05),
        trial("pre-bias", explained_variance=0.815),
    ],
)
def test_what_does_not_fit_well_enough_is_not_named(almost: Trial) -> None:
    assert names(examined(loaded=BAD, trials=(almost,))) == ("misfit",)


def test_the_best_of_what_fits_is_named() -> None:
    trials = (
        trial("normalize", explained_variance=0.95, constant=0.09),  # by half a fit
        trial("k", explained_variance=0.85),
        trial("pre-bias", explained_variance=0.9),
    )
    loaded = replace(BAD, constant=0.4)
    assert names(examined(loaded=loaded, trials=trials)) == ("pre-bias",)


def test_another_place_may_fit_better_than_one_that_fits() -> None:
    assert names(examined(trials=(trial(OTHER_PLACE, explained_variance=0.92),))) == (OTHER_PLACE,)
    for short in (
        trial(OTHER_PLACE, explained_variance=0.905),
        trial(OTHER_PLACE, explained_variance=0.95, constant=0.02),
        trial(OTHER_PLACE, explained_variance=0.95, factor=0.9),
    ):
        assert names(examined(trials=(short,))) == ()


def test_latents_beyond_those_of_the_training_are_named_although_they_explain_more() -> None:
    loaded = fit(explained_variance=0.94, factor=0.93, l0=42.0, constant=0.02)
    sparser = trial("threshold-dropped", explained_variance=0.92, l0=17.0)
    other = trial("topk-as-relu", explained_variance=0.915, l0=17.0)
    relu = examined(
        architecture="standard", loaded=loaded, trials=(other, sparser), decoder_norms=(0.4, 2.0)
    )
    assert names(relu) == ("threshold-dropped",)
    # In a TopK SAE it could be the decoder that was scaled, unless its rows have length 1.
    k = (trial("k", explained_variance=0.92, l0=17.0),)
    assert names(examined(loaded=loaded, trials=k)) == ("k",)
    assert names(examined(loaded=loaded, trials=k, decoder_norms=(0.4, 2.0))) == ()
    too_bad = (trial("threshold-dropped", explained_variance=0.9, l0=17.0),)
    assert names(examined(architecture="standard", loaded=loaded, trials=too_bad)) == ()


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((1.1, 1.1), ("scale",)),
        ((0.5, 3.0), ("scale",)),
        ((1.0, 1.0), ()),  # nothing scaled these rows
    ],
)
def test_a_scaled_decoder(norms: tuple[float, float], expected: tuple[str, ...]) -> None:
    loaded = fit(factor=0.91, explained_variance=0.89)
    examination = examined(
        loaded=loaded, decoder_norms=norms, trials=(trial(SCALED_DECODER),)
    )  # fmt: skip
    assert names(examination) == expected


def test_rows_of_one_length_that_the_factor_brings_to_1_tell_more_than_another_fit() -> None:
    loaded = fit(factor=1.11, explained_variance=0.88)
    trials = (trial("k", explained_variance=0.95), trial(SCALED_DECODER))
    assert names(examined(loaded=loaded, decoder_norms=(0.9, 0.9), trials=trials)) == ("scale",)
    assert names(examined(loaded=loaded, decoder_norms=(0.8, 0.8), trials=trials)) == ("k",)


def test_encoder_and_decoder_that_do_not_pair_up() -> None:
    lost = fit(explained_variance=-0.5, factor=0.0)
    apart = Pairing(own=0.0, best=0.8, own_share=0.01)
    permuted = examined(loaded=lost, pairing=apart, trials=(trial("decoder-permuted"),))
    assert names(permuted) == ("decoder-permuted",)
    other = (trial("decoder-permuted", explained_variance=-0.4, factor=0.1),)
    assert names(examined(loaded=lost, pairing=apart, trials=other)) == ("encoder-mismatch",)
    together = Pairing(own=0.7, best=0.7, own_share=0.98)
    assert names(examined(loaded=lost, pairing=together)) == ("misfit",)


def test_a_bias_of_zeros() -> None:
    loaded = fit(constant=0.2)
    (found,) = diagnose(None, examined(loaded=loaded, zero_bias=True)).suspicions
    assert found.name == "pre-bias"
    assert "20% of the squared error is one constant vector" in found.evidence
    assert names(examined(zero_bias=True)) == ()
    unrelated = fit(constant=0.2, factor=0.1)
    assert names(examined(loaded=unrelated, zero_bias=True)) == ("misfit",)
    assert names(examined(loaded=replace(unrelated, constant=0.6), zero_bias=True)) == ("pre-bias",)
    assert names(examined(loaded=loaded)) == ("misfit",)


def test_error_where_centred_activations_have_nothing() -> None:
    centred = examined(processing="hooked", ones_in_error=0.4, ones_in_activation=1e-12)
    assert names(centred) == ("space",)
    assert names(replace(centred, processing="raw")) == ()
    assert names(replace(centred, ones_in_activation=0.1)) == ()


@pytest.mark.parametrize(
    ("loaded", "architecture", "expected"),
    [
        (fit(factor=0.85), "topk", ("misfit",)),
        (fit(factor=1.3), "topk", ("misfit",)),
        (fit(factor=1.3), "standard", ()),
        (fit(factor=2.6), "standard", ("misfit",)),
        (fit(constant=0.11), "topk", ("misfit",)),
        (fit(constant=0.09), "topk", ()),  # other text than the training's
        (fit(factor=math.nan), "topk", ("misfit",)),
    ],
)
def test_what_nothing_explains(loaded: Fit, architecture: str, expected: tuple[str, ...]) -> None:
    near = examined(loaded=loaded, architecture=architecture)
    assert names(near) == expected
    for found in diagnose(None, near).suspicions:
        assert "`--sae-diagnose` tries more" in found.remedy
    for found in diagnose(None, replace(near, thorough=True)).suspicions:
        assert "tries more" not in found.remedy


@pytest.mark.parametrize(
    ("kind", "name"),
    [("bos", "bos"), ("first", "bos"), ("special", "special-tokens"), ("large", "large-norms")],
)
def test_tokens_that_the_sae_cannot_reconstruct(kind: str, name: str) -> None:
    group = Group(kind, tokens=0.01, error=0.6, relative=0.5, ordinary=0.1)
    assert names(examined(groups=(group,))) == (name,)
    (found,) = diagnose(None, examined(groups=(group,))).suspicions
    assert "1.0% of the scored tokens and 60% of the squared error" in found.evidence
    for as_good in (replace(group, relative=0.15, error=0.4), replace(group, error=0.03)):
        assert names(examined(groups=(as_good,))) == ()
    # What is included on purpose, and is nearly all of the error, hides all others.
    hides = replace(group, relative=0.01)
    assert names(examined(groups=(hides,))) == ((name,) if kind in ("bos", "special") else ())
    # Attention sinks are hard for every SAE: they matter once they are most of the error.
    some = replace(group, error=0.4)
    assert names(examined(groups=(some,))) == (() if kind == "large" else (name,))


def test_thresholds_that_were_rounded_matter_where_latents_are_near() -> None:
    assert names(examined(near_thresholds=0.03)) == ("bf16-threshold",)
    assert names(examined(near_thresholds=0.01)) == ()


def test_what_was_examined_says_more_than_the_measurement() -> None:
    dense = measured(checkpoint={}, l0=25000.0, cosine=20.0)
    assert diagnose(dense).names == ("misfit", "threshold-dropped")
    assert diagnose(dense, examined()).names == ()
    assert diagnose(dense, examined(loaded=BAD, trials=(trial("k"),))).names == ("k",)
    harmful = measured(ce_patched=950.0)
    assert diagnose(harmful, examined()).names == ("worse-than-zeros",)


def test_what_was_tried_is_a_table_where_it_was_asked_for() -> None:
    trials = (trial("k", explained_variance=0.5), trial("pre-bias", explained_variance=0.95))
    near = examined(loaded=replace(BAD, kl=0.25), trials=trials)
    assert diagnose(None, near).tried == ()
    found = diagnose(None, replace(near, thorough=True))
    assert found.tried == (
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


def test_a_diagnosis_crosses_processes() -> None:
    found = Diagnosis((Suspicion("scale", "‖x̂‖", "this"),), ("a", "b"))
    assert Diagnosis.of_json(found.json) == found
    assert json.loads(found.json)["suspicions"][0]["evidence"] == "‖x̂‖"
    assert str(found).splitlines() == ["probably: scale: ‖x̂‖", "  try: this", "a", "b"]
    assert str(Diagnosis()) == "nothing is suspected"
