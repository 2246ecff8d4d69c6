"""Explain why an SAE does not fit its activations, by the variants that were tried.

Training that minimises squared error leaves nothing to gain by scaling x̂ or by adding a constant
vector to it. A wrong load or a wrong hook point does. Among the variants, the right one is
recognised by having nothing left to gain, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from sae_guard.core.diagnosis.examination import NOTHING_LEFT, Examination, Fit, Suspicion, Trial

OTHER_HOOK_POINT = "other-layer"
SCALED_DECODER = "scaled decoder"
"""Name of the variant in which x̂ is multiplied by its best factor, which always improves the fit.
"""

_SELECTIONS = ("topk-as-relu", "threshold-dropped", "threshold-scale", "k")
_BETTER = 0.9  # largest FVU of a variant, over that of the SAE as loaded
# A variant without the surplus latents may explain less than the SAE as loaded.
_WITHOUT_SOME_LATENTS = 1.6  # largest FVU of such a variant, over that of the SAE as loaded
_FEWER_LATENTS = 0.85  # largest L0 of such a variant, over that of the SAE as loaded
_PAIRED = 0.5  # share of latents whose nearest decoder row is their own
_SAME_LENGTH = 0.02  # relative difference of lengths that count as the same
# Text unlike the training's does not explain values outside these.
_FAR_FACTORS = (0.9, 1.25)
_FAR_FACTOR_IF_SHRUNK = 2.5
_FAR_CONSTANT = 0.1
# Least constant error of a missing b_dec, where x̂ is related to x (factor above 0.3) and where not.
_MISSING_BIAS, _RELATED = (0.05, 0.5), 0.3
_NO_ONES, _MANY_ONES = 1e-6, 0.2  # shares along the vector of ones


def misfit(examination: Examination) -> Iterator[Suspicion]:
    """Yield the best explanation why the SAE does not fit; at most one."""
    explanations = (_tried,) if examination.sound else _EXPLANATIONS
    for explanation in explanations:
        suspicion = explanation(examination)
        if suspicion is not None:
            yield suspicion
            return


def accepted(examination: Examination) -> Trial | None:
    """Return the variant that explains most, among those that fit as training leaves an SAE.

    Where the SAE as loaded fits like that, too, only another hook point is accepted: neighbouring
    hook points can be so alike that the SAE fits at both.

    Returns:
        The variant; None where none fits.
    """
    loaded = examination.loaded
    if loaded.unexplained <= NOTHING_LEFT:
        return None
    better = [
        trial
        for trial in examination.trials
        if trial.name != SCALED_DECODER
        and examination.calibrated(trial.fit)
        and trial.fit.unexplained <= _BETTER * loaded.unexplained
        and (
            trial.fit.constant <= loaded.constant
            if trial.name == OTHER_HOOK_POINT
            else not examination.sound
        )
    ] or _sparser(examination)
    return min(
        better,
        key=lambda trial: (not examination.centred(trial.fit), trial.fit.unexplained),
        default=None,
    )


def _sparser(examination: Examination) -> list[Trial]:
    """Return the variants with fewer active latents, where the others were not active in training.

    A factor below 1 shows surplus latents if nothing else can cause it: a penalty shrinks latents
    and so leaves a factor above 1, and decoder rows of length 1 show that nothing was scaled. The
    surplus latents may help to explain x, but the SAE that was trained did not use them.
    """
    loaded = examination.loaded
    certain = examination.shrinks or _row_norm(examination) == 1
    if examination.sound or not certain or not loaded.factor < 1:
        return []
    return [
        trial
        for trial in examination.trials
        if trial.name in _SELECTIONS
        and examination.calibrated(trial.fit)
        and trial.fit.l0 <= _FEWER_LATENTS * loaded.l0
        and trial.fit.unexplained <= _WITHOUT_SOME_LATENTS * loaded.unexplained
    ]


def _pairing(examination: Examination) -> Suspicion | None:
    pairing = examination.pairing
    if pairing is None or pairing.own_share >= _PAIRED or pairing.own >= pairing.best / 2:
        return None
    cosines = (
        f"encoder columns have a median cosine of {pairing.own:.2f} with their own decoder rows, "
        f"and of {pairing.best:.2f} with the nearest"
    )
    trial = accepted(examination)
    if trial is not None and trial.name == "decoder-permuted":
        text = comparison_text(trial.fit, examination.loaded)
        return trial.suspicion(f"{cosines}; with these {text}")
    return Suspicion(
        "encoder-mismatch",
        f"{cosines}; with these it does not fit either",
        "encoder and decoder are of two SAEs, or one of them was never trained: check which files "
        "and which steps they come from",
    )


def _tried(examination: Examination) -> Suspicion | None:
    trial = accepted(examination)
    if trial is None:
        return None
    text = comparison_text(trial.fit, examination.loaded)
    return trial.suspicion(f"with {trial.change} {text}")


def _scaled_rows(examination: Examination) -> Suspicion | None:
    """Suspect a scaled decoder where the best factor brings all rows to length 1.

    Only a scaling of the decoder explains that the factor is just the inverse of the length.
    """
    norm = _row_norm(examination)
    if norm is None or norm == 1 or abs(examination.loaded.factor * norm - 1) > _SAME_LENGTH:
        return None
    return _scaled(examination)


def _scaled(examination: Examination) -> Suspicion | None:
    """Suspect a factor on the decoder alone, which training would have removed."""
    loaded, (low, high) = examination.loaded, examination.decoder_norms
    trial = next((t for t in examination.trials if t.name == SCALED_DECODER), None)
    if trial is None or examination.balanced(loaded) or not examination.calibrated(trial.fit):
        return None
    if _row_norm(examination) == 1:
        return None
    return Suspicion(
        "scale",
        f"the best factor for x̂ is {loaded.factor:.3f}, where training leaves 1; with it "
        f"{comparison_text(trial.fit, loaded)}; decoder rows have norms from {low:.3g} to "
        f"{high:.3g}",
        f"the decoder seems to be multiplied by {1 / loaded.factor:.3g}: look for a factor that "
        "was folded twice, or not undone",
    )


def _missing_bias(examination: Examination) -> Suspicion | None:
    loaded = examination.loaded
    if_related, if_unrelated = _MISSING_BIAS
    # An x̂ that is unrelated to x has a mean of its own, so that it needs stronger evidence.
    missing = loaded.constant > (if_related if loaded.factor > _RELATED else if_unrelated)
    if not examination.zero_bias or not missing or math.isnan(loaded.factor):
        return None
    return Suspicion(
        "pre-bias",
        f"b_dec is zeros, and {loaded.constant:.0%} of the squared error is one constant vector",
        "a bias was dropped where the checkpoint was made or converted: look for b_dec, or for a "
        "mean that was taken off the activations",
    )


def _centred_activations(examination: Examination) -> Suspicion | None:
    """Suspect an SAE of raw activations in a model with centred weights.

    The opposite case is tried as a variant; this one cannot be, as centring cannot be undone.
    """
    if not (
        examination.processing == "hooked"
        and examination.ones_in_activation < _NO_ONES
        and examination.ones_in_error > _MANY_ONES
    ):
        return None
    return Suspicion(
        "space",
        f"{examination.ones_in_error:.0%} of the squared error is along the vector of ones, where "
        "the centred activations of this model have nothing",
        "`model: {processing: raw}`: the SAE was trained on weights that were not centred",
    )


def _unexplained(examination: Examination) -> Suspicion | None:
    loaded = examination.loaded
    low, high = _FAR_FACTORS
    high = _FAR_FACTOR_IF_SHRUNK if examination.shrinks else high
    if low <= loaded.factor <= high and loaded.constant <= _FAR_CONSTANT:
        return None
    tried = "nothing that was tried fits" if examination.thorough else "nothing nearby fits"
    return Suspicion(
        "misfit",
        f"the best factor for x̂ is {loaded.factor:.3g} and {loaded.constant:.0%} of the squared "
        f"error is one constant vector, where training leaves 1 and nothing; {tried}",
        "check the model, the hook point, the data and the scale that this SAE was trained on"
        + ("" if examination.thorough else "; a thorough diagnosis tries more"),
        () if examination.thorough else (("diagnose", ""),),
    )


_EXPLANATIONS: tuple[Callable[[Examination], Suspicion | None], ...] = (
    _pairing, _scaled_rows, _tried, _scaled, _missing_bias, _centred_activations, _unexplained,
)  # fmt: skip


def _row_norm(examination: Examination) -> float | None:
    """Return the common length of the decoder rows, 1.0 if close to it; None where they differ."""
    low, high = examination.decoder_norms
    if not high < low * (1 + _SAME_LENGTH):
        return None
    return 1.0 if abs(low - 1) < _SAME_LENGTH else low


def comparison_text(fit: Fit, loaded: Fit) -> str:
    """Return a text that compares the fit of a variant with that of the SAE as loaded."""
    text = (
        f"explained variance is {fit.explained_variance:.3f} (as loaded "
        f"{loaded.explained_variance:.3f}), the best factor for x̂ {fit.factor:.2f} "
        f"({loaded.factor:.2f}), the constant part of the squared error {fit.constant:.0%} "
        f"({loaded.constant:.0%}), L0 {fit.l0:.1f} ({loaded.l0:.1f})"
    )
    if fit.kl is None or loaded.kl is None:
        return text
    return f"{text}, KL {fit.kl:.3f} ({loaded.kl:.3f})"
