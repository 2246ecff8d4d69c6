"""`Examination`: how well an SAE, and variants of it, fit the activations of one batch.

`core.diagnosis.diagnose` derives each `Suspicion` from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sae_guard.errors import Option, allowed

NAMES = (
    "decoder-permuted", "encoder-mismatch", "other-layer", "scale", "normalize", "pre-bias",
    "topk-as-relu", "threshold-dropped", "threshold-scale", "k", "space", "bf16-threshold", "bos",
    "special-tokens", "large-norms", "context", "worse-than-zeros", "misfit",
)  # fmt: skip
"""Names of all suspicions. They are public: users read them and filter by them."""

Setting = tuple[Option, str]
"""An option and its value as text; the text is empty for an option without a value."""


@dataclass(frozen=True)
class Suspicion:
    """One probable cause, the numbers that suggest it, and a remedy to try."""

    name: str
    """One of `NAMES`."""
    evidence: str
    remedy: str
    """Sentence with the key of the spec to set."""
    options: tuple[Setting, ...] = ()
    """Options that set the same for one run; each shell spells them in its own way."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(
                f"{self.name!r} is not the name of a suspicion; {allowed(self.name, NAMES)}"
            )


# Training that minimises squared error leaves no factor and no constant vector that improves x̂.
# Measured on 13 SAEs of a small model, 1,000 tokens each: factors from 0.98 to 1.01 and at most 2 %
# of constant error; on text unlike the training's, factors from 0.99 to 1.00 and at most 8 %. A
# penalty on the latents shrinks them, so that the best factor is above 1.
_LEAST_FACTOR = 0.96
_LARGEST_FACTOR = 1.05
_LARGEST_FACTOR_IF_SHRUNK = 1.6
_LARGEST_CONSTANT = 0.03
_CONSTANT_LEFT = 0.25
_SHRINKING = ("standard", "tanh_relu", "gated")
NOTHING_LEFT = 1e-4
"""Fraction of the variance below which the error is rounding."""
# Largest share of the error along the vector of ones. An error in a random direction has a share of
# 1 / d_model there; with centred weights in the wrong place it is far larger.
_LARGEST_ONES = 0.2


@dataclass(frozen=True)
class Fit:
    """The fit of the reconstructions x̂ to the activations x of the ordinary tokens of a batch."""

    explained_variance: float
    """1 − Σ‖x−x̂‖² / Σ‖x−μ‖² over the batch, μ its mean activation."""
    factor: float
    """The α that minimises Σ‖x−μ − α(x̂−μ̂)‖², μ̂ the mean of x̂; NaN where x̂ is the same for all
    tokens."""
    constant: float
    """Share of Σ‖x−x̂‖² that is due to one constant vector, the mean error."""
    l0: float
    """Mean number of active latents per token."""
    kl: float | None = None
    """KL in nats; None where the model was not run with x̂ patched in."""

    @property
    def unexplained(self) -> float:
        """Fraction of variance unexplained (FVU)."""
        return 1 - self.explained_variance

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key: the fit that explains most comes first, NaN last."""
        return math.isnan(self.unexplained), self.unexplained


@dataclass(frozen=True)
class Trial:
    """The fit of a variant: the same batch with one setting changed."""

    name: str
    """Name of the suspicion that this variant supports if it fits."""
    change: str
    """Setting that is changed, such as ``hook: blocks.1.hook_resid_post``."""
    remedy: str
    """Remedy of the suspicion."""
    fit: Fit
    options: tuple[Setting, ...] = ()
    """Options of the suspicion."""

    def suspicion(self, evidence: str) -> Suspicion:
        """Return the suspicion that this variant supports."""
        return Suspicion(self.name, evidence, self.remedy, self.options)


@dataclass(frozen=True)
class Pairing:
    """Cosines of encoder columns with decoder rows, for the latents that fire most."""

    own: float
    """Median cosine with the row of the same latent."""
    best: float
    """Median cosine with the nearest row of any latent."""
    own_share: float
    """Share of the latents whose nearest row is their own."""


@dataclass(frozen=True)
class Group:
    """Scored tokens of one kind, compared with the ordinary ones."""

    name: str
    """``bos``, ``first`` (at position 0 and no BOS), ``special``, or ``large`` (of large norm)."""
    tokens: float
    """Share of the scored tokens."""
    error: float
    """Share of Σ‖x−x̂‖² over all scored tokens."""
    relative: float
    """Σ‖x−x̂‖² / Σ‖x‖² in the group."""
    ordinary: float
    """Σ‖x−x̂‖² / Σ‖x‖² over the ordinary tokens."""


@dataclass(frozen=True)
class Examination:
    """The results of examining an SAE on one batch at its hook point, as builtins."""

    n_tokens: int
    """Number of ordinary tokens: scored, not special, and of less than ten times the usual norm."""
    architecture: str
    processing: str
    """Processing of the model: ``raw`` or ``hooked``."""
    loaded: Fit
    """Fit of the SAE as it was loaded."""
    decoder_norms: tuple[float, float]
    """Smallest and largest norm of the decoder rows of the latents that fired."""
    zero_bias: bool = False
    """True where b_dec is all zeros."""
    ones_in_error: float = 0.0
    """Share of Σ‖x−x̂‖² along the vector of ones, where centred weights never write."""
    ones_in_activation: float = 0.0
    """Share of Σ‖x‖² along the vector of ones."""
    groups: tuple[Group, ...] = ()
    near_thresholds: float = 0.0
    """Latents within bfloat16 rounding of their threshold, over the active latents; 0 unless the
    thresholds are bfloat16 numbers and the other weights are not."""
    pairing: Pairing | None = None
    trials: tuple[Trial, ...] = ()
    reconstructs: bool = True
    """True where the SAE was trained to reconstruct; one that was trained on predictions alone has
    no reason to fit."""
    thorough: bool = False
    """True where all variants were tried, on request; False where only the likely ones were."""

    @property
    def shrinks(self) -> bool:
        """True where the SAE may have been trained with a penalty that shrinks its latents."""
        return self.architecture in _SHRINKING

    def balanced(self, fit: Fit) -> bool:
        """Return whether the factor is one that training leaves; NaN never is."""
        largest = _LARGEST_FACTOR_IF_SHRUNK if self.shrinks else _LARGEST_FACTOR
        return _LEAST_FACTOR <= fit.factor <= largest

    def centred(self, fit: Fit) -> bool:
        """Return whether the constant error is one that training leaves, or negligible."""
        return fit.constant <= _LARGEST_CONSTANT or fit.unexplained <= NOTHING_LEFT

    def calibrated(self, fit: Fit) -> bool:
        """Return whether a variant's fit is one that training leaves.

        Constant error that is due to other text than the training's is tolerated, if the variant
        removes most of what was loaded with.
        """
        mostly_removed = fit.constant <= _CONSTANT_LEFT * self.loaded.constant
        return self.balanced(fit) and (self.centred(fit) or mostly_removed)

    @property
    def sound(self) -> bool:
        """True where the SAE fits as training leaves one, so that no variant has to be tried."""
        if not self.reconstructs:
            return True
        loaded = self.loaded
        few_ones = self.ones_in_error <= _LARGEST_ONES
        return self.balanced(loaded) and self.centred(loaded) and few_ones
