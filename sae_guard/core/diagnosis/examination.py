"""`Examination`: what was found out about an SAE on one batch, beside its measurement.

`Suspicion` is what a diagnosis makes of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sae_guard.errors import Option

NAMES = (
    "decoder-permuted",
    "encoder-mismatch",
    "other-layer",
    "scale",
    "normalize",
    "pre-bias",
    "topk-as-relu",
    "threshold-dropped",
    "threshold-scale",
    "k",
    "space",
    "bf16-threshold",
    "bos",
    "special-tokens",
    "large-norms",
    "context",
    "worse-than-zeros",
    "misfit",
)
"""What can be suspected. Users read these names and filter by them: they stay as they are."""

Setting = tuple[Option, str]
"""An option and its value as text, which is empty where an option is only switched on."""


@dataclass(frozen=True)
class Suspicion:
    """One probable cause, the numbers that suggest it, and what to try."""

    name: str
    """One of `NAMES`."""
    evidence: str
    remedy: str
    """In words, and as a spec says it."""
    options: tuple[Setting, ...] = ()
    """What sets the same for one run; each shell spells it in its own way."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"{self.name!r} is no name of a suspicion")


# Where squared error has been minimised, no factor and no constant vector improves x̂. SAEs of a
# small model, 13 of them, had factors of 0.98 to 1.01 on 1,000 tokens and 2 % of constant error at
# most; on text unlike their training's 0.99 to 1.00 and 8 %. A penalty on latents shrinks them, so
# that the best factor is above 1.
_LEAST_FACTOR = 0.96
_LARGEST_FACTOR = 1.05
_LARGEST_FACTOR_IF_SHRUNK = 1.6
_LARGEST_CONSTANT = 0.03
_LEFT_OF_CONSTANT = 0.25
_SHRINKING = ("standard", "tanh_relu", "gated")
NOTHING_LEFT = 1e-4
"""Of the variance: below it, errors are those of rounding."""
# Of d_model directions one has a share of 1 / d_model; centred weights leave its error whole.
_LARGEST_ONES = 0.2


@dataclass(frozen=True)
class Fit:
    """How well the reconstructions x̂ of ordinary tokens fit what they stand for, x."""

    explained_variance: float
    """1 − Σ‖x−x̂‖² / Σ‖x−μ‖² over the batch."""
    factor: float
    """The α that minimises Σ‖x−μ − α(x̂−μ̂)‖²; NaN where x̂ is the same for all tokens."""
    constant: float
    """Share of Σ‖x−x̂‖² that is one constant vector, the mean error."""
    l0: float
    kl: float | None = None
    """In nats, where the model was run with x̂ patched in."""

    @property
    def unexplained(self) -> float:
        """FVU."""
        return 1 - self.explained_variance

    @property
    def rank(self) -> tuple[bool, float]:
        """To sort by: what explains most is first, NaN last."""
        return math.isnan(self.unexplained), self.unexplained


@dataclass(frozen=True)
class Trial:
    """The same batch with one thing done otherwise."""

    name: str
    """Of the suspicion, if it fits."""
    change: str
    """What is done otherwise, such as ``hook: blocks.1.hook_resid_post``."""
    remedy: str
    fit: Fit
    options: tuple[Setting, ...] = ()
    """Like the remedy, of the suspicion."""


@dataclass(frozen=True)
class Pairing:
    """Cosines of encoder columns with decoder rows, of the latents that fire most."""

    own: float
    """Median with the row of the same latent."""
    best: float
    """Median with the nearest row of any latent."""
    own_share: float
    """Share of the latents whose nearest row is their own."""


@dataclass(frozen=True)
class Group:
    """Scored tokens of one kind, beside the ordinary ones."""

    name: str
    """``bos``, ``first`` (at position 0 and no BOS), ``special``, or ``large`` (of large norm)."""
    tokens: float
    """Share of the scored tokens."""
    error: float
    """Share of Σ‖x−x̂‖²."""
    relative: float
    """Σ‖x−x̂‖² / Σ‖x‖² in the group."""
    ordinary: float
    """The same of the ordinary tokens."""


@dataclass(frozen=True)
class Examination:
    """What one batch says of an SAE at its place. Builtins only."""

    n_tokens: int
    """Ordinary ones: scored, neither special nor of a norm ten times the usual."""
    architecture: str
    processing: str
    """Of the model: ``raw`` or ``hooked``."""
    loaded: Fit
    decoder_norms: tuple[float, float]
    """The least and the largest of the latents that fired."""
    zero_bias: bool = False
    """Whether b_dec is zeros."""
    ones_in_error: float = 0.0
    """Share of Σ‖x−x̂‖² along the vector of ones, where centred weights never write."""
    ones_in_activation: float = 0.0
    """Share of Σ‖x‖² along it."""
    groups: tuple[Group, ...] = ()
    near_thresholds: float = 0.0
    """Latents within bfloat16's rounding of their threshold, by those that are active; where
    thresholds are rounded to it and other weights are not."""
    pairing: Pairing | None = None
    trials: tuple[Trial, ...] = ()
    reconstructs: bool = True
    """Whether it was trained to reconstruct: on predictions alone nothing makes x̂ fit."""
    thorough: bool = False
    """Whether everything was tried, by request, or only what is near."""

    @property
    def shrinks(self) -> bool:
        """Whether the SAE may have been trained with a penalty that shrinks its latents."""
        return self.architecture in _SHRINKING

    def balanced(self, fit: Fit) -> bool:
        """Whether the factor is what training leaves; NaN never is."""
        largest = _LARGEST_FACTOR_IF_SHRUNK if self.shrinks else _LARGEST_FACTOR
        return _LEAST_FACTOR <= fit.factor <= largest

    def centred(self, fit: Fit) -> bool:
        """Whether the constant error is what training leaves, or next to nothing."""
        return fit.constant <= _LARGEST_CONSTANT or fit.unexplained <= NOTHING_LEFT

    def calibrated(self, fit: Fit) -> bool:
        """Whether a trial's fit is what training leaves, but for what other text adds to it."""
        left = fit.constant <= _LEFT_OF_CONSTANT * self.loaded.constant
        return self.balanced(fit) and (self.centred(fit) or left)

    @property
    def sound(self) -> bool:
        """Whether the SAE fits as training leaves one, so that nothing else has to be tried."""
        if not self.reconstructs:
            return True
        loaded = self.loaded
        few_ones = self.ones_in_error <= _LARGEST_ONES
        return self.balanced(loaded) and self.centred(loaded) and few_ones
