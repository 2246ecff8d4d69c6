"""A misfit is explained by the variant that fits; a sound SAE raises no suspicion."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sae_guard.core.diagnosis import (
    OTHER_HOOK_POINT,
    SCALED_DECODER,
    Fit,
    Pairing,
    Trial,
    diagnose,
)
from tests.helpers.examinations import BAD, examined, fit, names, trial


@pytest.mark.parametrize("factor", [0.96, 1.0, 1.05])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
def test_a_sound_examination_is_not_suspected(factor: float, architecture: str) -> None:
    loaded = fit(factor=factor, constant=0.03)
    # What explains more by other numbers of latents, or other scales, is no better load.
    tempting = (trial("k", explained_variance=0.99), trial("scale", explained_variance=0.99))
    assert names(examined(architecture=architecture, loaded=loaded, trials=tempting)) == ()


def test_rounding_errors_are_no_misfit() -> None:
    loaded = fit(explained_variance=1 - 1e-9, constant=0.9)
    better = (trial(OTHER_HOOK_POINT, explained_variance=1.0, constant=0.0),)
    assert names(examined(loaded=loaded, trials=better)) == ()


@pytest.mark.parametrize(
    "name", ["pre-bias", "normalize", "scale", "space", "k", "topk-as-relu", OTHER_HOOK_POINT]
)
def test_a_fitting_trial_is_suspected_with_its_numbers(name: str) -> None:
    diagnosis = diagnose(None, examined(loaded=BAD, trials=(trial("k", factor=0.9), trial(name))))
    (suspicion,) = diagnosis.suspicions
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
def test_a_trial_that_fits_badly_is_not_suspected(almost: Trial) -> None:
    assert names(examined(loaded=BAD, trials=(almost,))) == ("misfit",)


def test_the_best_fitting_trial_is_suspected() -> None:
    trials = (
        trial("normalize", explained_variance=0.95, constant=0.09),  # by half a fit
        trial("k", explained_variance=0.85),
        trial("pre-bias", explained_variance=0.9),
    )
    loaded = replace(BAD, constant=0.4)
    assert names(examined(loaded=loaded, trials=trials)) == ("pre-bias",)


def test_another_hook_point_can_beat_a_sound_fit() -> None:
    assert names(examined(trials=(trial(OTHER_HOOK_POINT, explained_variance=0.92),))) == (
        OTHER_HOOK_POINT,
    )
    for short in (
        trial(OTHER_HOOK_POINT, explained_variance=0.905),
        trial(OTHER_HOOK_POINT, explained_variance=0.95, constant=0.02),
        trial(OTHER_HOOK_POINT, explained_variance=0.95, factor=0.9),
    ):
        assert names(examined(trials=(short,))) == ()


def test_surplus_latents_are_suspected_although_they_explain_more() -> None:
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
def test_a_scaled_decoder_is_suspected(
    norms: tuple[float, float], expected: tuple[str, ...]
) -> None:
    loaded = fit(factor=0.91, explained_variance=0.89)
    examination = examined(
        loaded=loaded, decoder_norms=norms, trials=(trial(SCALED_DECODER),)
    )  # fmt: skip
    assert names(examination) == expected


def test_rows_scaled_from_length_1_outweigh_another_fit() -> None:
    loaded = fit(factor=1.11, explained_variance=0.88)
    trials = (trial("k", explained_variance=0.95), trial(SCALED_DECODER))
    assert names(examined(loaded=loaded, decoder_norms=(0.9, 0.9), trials=trials)) == ("scale",)
    assert names(examined(loaded=loaded, decoder_norms=(0.8, 0.8), trials=trials)) == ("k",)


def test_unpaired_encoder_and_decoder_are_suspected() -> None:
    lost = fit(explained_variance=-0.5, factor=0.0)
    apart = Pairing(own=0.0, best=0.8, own_share=0.01)
    permuted = examined(loaded=lost, pairing=apart, trials=(trial("decoder-permuted"),))
    assert names(permuted) == ("decoder-permuted",)
    other = (trial("decoder-permuted", explained_variance=-0.4, factor=0.1),)
    assert names(examined(loaded=lost, pairing=apart, trials=other)) == ("encoder-mismatch",)
    together = Pairing(own=0.7, best=0.7, own_share=0.98)
    assert names(examined(loaded=lost, pairing=together)) == ("misfit",)


def test_a_missing_decoder_bias_is_suspected() -> None:
    loaded = fit(constant=0.2)
    (suspicion,) = diagnose(None, examined(loaded=loaded, zero_bias=True)).suspicions
    assert suspicion.name == "pre-bias"
    assert "20% of the squared error is one constant vector" in suspicion.evidence
    assert names(examined(zero_bias=True)) == ()
    unrelated = fit(constant=0.2, factor=0.1)
    assert names(examined(loaded=unrelated, zero_bias=True)) == ("misfit",)
    assert names(examined(loaded=replace(unrelated, constant=0.6), zero_bias=True)) == ("pre-bias",)
    assert names(examined(loaded=loaded)) == ("misfit",)


def test_error_along_ones_in_a_centred_model_is_suspected() -> None:
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
def test_a_misfit_without_explanation_is_suspected(
    loaded: Fit, architecture: str, expected: tuple[str, ...]
) -> None:
    quick = examined(loaded=loaded, architecture=architecture)
    assert names(quick) == expected
    for suspicion in diagnose(None, quick).suspicions:
        assert suspicion.remedy.endswith("; a thorough diagnosis tries more")
        assert suspicion.options == (("diagnose", ""),)
    for suspicion in diagnose(None, replace(quick, thorough=True)).suspicions:
        assert "tries more" not in suspicion.remedy
        assert suspicion.options == ()
