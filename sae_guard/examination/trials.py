"""Trials: run variants of an SAE on the same batch, each with one change, and see which fits.

Also here: the pairing of encoder and decoder by the cosines of their latents' vectors, the hook
points near a hook point, and the search for the best input scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sae_guard.core.diagnosis import Fit, Pairing, Trial
from sae_guard.engine import HookSite, plain
from sae_guard.examination import variants
from sae_guard.examination.batch import ExaminedBatch
from sae_guard.examination.fitting import fit_sae, most_firing
from sae_guard.examination.selection import selections
from sae_guard.examination.variants import Variant
from sae_guard.sae import SAE

_LATENTS = 2**10
"""Latents whose encoder columns are compared with all decoder rows."""
_PAIRED_SHARE = 0.5
"""Share of latents nearest to their own decoder row above which the order of rows is right."""
_SAME_SCALE = math.log(1.15)
"""Largest difference of two scales, in logarithms, that counts as none."""
_BEST_TRIALS = 4
"""Trials, those that explain most, whose KL is measured in a thorough examination."""
_KL_WINDOWS = 4
"""Windows on which their KL is measured."""


class Trials:
    """Trials of an SAE on a batch: which variant of it fits better than the SAE as loaded?"""

    def __init__(self, batch: ExaminedBatch, sae: SAE, loaded: Fit, *, thorough: bool) -> None:
        self._batch = batch
        self._sae = sae
        self._loaded = loaded
        self._thorough = thorough

    def at_next_blocks(self) -> list[Trial]:
        """Try the same hook point of the blocks before and after."""
        return [_trial(self._batch, variant) for variant in self._other_sites("next_blocks")]

    def all(self, firings: Int[Tensor, " d_sae"]) -> tuple[Pairing | None, list[Trial]]:
        """Make all trials, and measure KL of the best if the examination is thorough.

        Args:
            firings: Number of tokens on which each latent fired.

        Returns:
            The pairing of encoder and decoder, None in a transcoder; and the trials.
        """
        pairing, matched = self._pairing(firings)
        candidates = [*self._variants(), *matched]
        trials = [(variant, _trial(self._batch, variant)) for variant in candidates]
        if self._thorough:
            trials.sort(key=lambda pair: pair[1].fit.rank)
            for index, (variant, trial) in enumerate(trials[:_BEST_TRIALS]):
                trials[index] = (variant, self._trial_with_kl(variant, trial))
        return pairing, [trial for _, trial in trials]

    def with_kl(self, fit: Fit, sae: SAE, site: HookSite | None = None) -> Fit:
        """Return ``fit`` with KL, in nats, of a few windows with the SAE patched in.

        Args:
            fit: Numbers of the SAE.
            sae: The SAE, or a variant of it.
            site: Other hook points that it reads and replaces, if it is not at its own.
        """
        batch = self._batch
        kl = tokens = 0.0
        for row in range(min(_KL_WINDOWS, len(batch.corpus.tokens))):
            rows = slice(row, row + 1)  # one window at a time, as all of its logits are in memory
            sums = plain.batch(batch.model, sae, batch.corpus, site or batch.site, rows, None).sums
            kl += float(sums["kl"].sum())
            tokens += float(sums["n_tokens"].sum())
        return replace(fit, kl=kl / tokens if tokens else None)

    def _trial_with_kl(self, variant: Variant, trial: Trial) -> Trial:
        if variant.centred:  # this model does not produce the activations of centred weights
            return trial
        return replace(trial, fit=self.with_kl(trial.fit, variant.sae, variant.site))

    def _variants(self) -> Iterator[Variant]:
        sae, site, model = self._sae, self._batch.site, self._batch.model
        x = self._batch.ordinary_activations(site.read)
        y = self._batch.ordinary_activations(site.replaced)
        yield from self._other_sites("far" if self._thorough else "near")
        yield from variants.pre_biases(sae)
        yield from variants.normalisations(sae)
        yield from variants.trainer_scales(sae, x)
        if self._thorough and not sae.transcoder:
            scale = best_scale(sae, x, y)
            if abs(math.log(scale / sae.scale_in)) > _SAME_SCALE:
                yield variants.with_scale(sae, "the input scaled as fits best", scale)
        if model.processing == "raw" and model.uses_layer_norm:
            yield from variants.centred_weights(sae)
        yield from selections(sae, x, y, self._loaded.l0)
        # NaN where x̂ is the same for all tokens.
        if math.isfinite(self._loaded.factor):
            yield variants.with_scaled_decoder(sae, self._loaded.factor)

    def _other_sites(self, reach: Reach) -> Iterator[Variant]:
        """Yield the SAE at hook points near its own that have its width and other activations."""
        batch, sae = self._batch, self._sae
        sites = list(nearby_sites(batch.site, batch.model.bridge.hook_dict, reach))
        hooks = [hook for site in sites for hook in site.hooks]
        firing = set(batch.run_model_where_possible(hooks))
        distinct = [self._input_and_output(batch.site)]
        for site in sites:
            if not firing.issuperset(site.hooks):
                continue
            x, y = self._input_and_output(site)
            # What leaves a block enters the next: one activation may have two hook points.
            duplicate = any(_equal(x, x_) and _equal(y, y_) for x_, y_ in distinct)
            if (x.shape[-1], y.shape[-1]) == (sae.d_in, sae.d_out) and not duplicate:
                distinct.append((x, y))
                yield variants.at_site(sae, site)

    def _input_and_output(self, site: HookSite) -> tuple[Tensor, Tensor]:
        return self._batch.activations(site.read), self._batch.activations(site.replaced)

    def _pairing(self, firings: Int[Tensor, " d_sae"]) -> tuple[Pairing | None, list[Variant]]:
        """Return the pairing, and the variant with matched rows if the order of rows is wrong."""
        sae = self._sae
        latents = most_firing(firings, _LATENTS)
        # The columns and rows of a transcoder are vectors of two different spaces.
        if sae.transcoder or not len(latents):
            return None, []
        pairing, _ = nearest_rows(sae, latents)
        if pairing.own_share >= _PAIRED_SHARE:
            return pairing, []
        all_latents = most_firing(firings, sae.d_sae)
        _, rows = nearest_rows(sae, all_latents)
        matched = rearrange_decoder(sae, all_latents, rows)
        return pairing, [variants.with_matched_decoder(matched)]


def _trial(batch: ExaminedBatch, variant: Variant) -> Trial:
    site = variant.site or batch.site
    x, y = (batch.ordinary_activations(hook) for hook in (site.read, site.replaced))
    if variant.centred:
        x, y = (value - value.mean(dim=-1, keepdim=True) for value in (x, y))
    fit = fit_sae(variant.sae, x, y)
    return Trial(variant.name, variant.change, variant.remedy, fit, variant.options)


def _equal(x: Tensor, other: Tensor) -> bool:
    return x.device == other.device and torch.equal(x, other)


_ELEMENTS = 2**24
"""Cosines in memory at once."""


def nearest_rows(
    sae: SAE, latents: Int[Tensor, " latents"]
) -> tuple[Pairing, Int[Tensor, " latents"]]:
    """Compare encoder columns with all decoder rows by their cosines.

    Args:
        sae: An SAE that reads and writes the same space, so no transcoder.
        latents: Indices of the latents whose columns to compare, at least one.

    Returns:
        The cosines in summary, and for each of the latents the decoder row nearest to its column.
    """
    latents = latents.to(sae.device)
    columns = normalize(sae.W_enc[:, latents].T, dim=-1)  # [latents, d_in]
    own = (columns * normalize(sae.W_dec[latents], dim=-1)).sum(dim=-1)  # [latents]
    # Below any cosine, so that the first row replaces it.
    best = own.new_full((len(latents),), -2.0)
    row = latents.clone()
    step = max(1, _ELEMENTS // len(latents))
    for start in range(0, sae.d_sae, step):
        cosines = columns @ normalize(sae.W_dec[start : start + step], dim=-1).T  # [latents, step]
        nearest = cosines.max(dim=-1)
        row = torch.where(nearest.values > best, nearest.indices + start, row)
        best = torch.maximum(best, nearest.values)
    # Of equal rows any may come out nearest: they count as the latent's own.
    is_own = (row == latents) | (own >= best - 1e-6)
    pairing = Pairing(
        own=float(own.median()), best=float(best.median()), own_share=float(is_own.float().mean())
    )
    return pairing, row


def rearrange_decoder(
    sae: SAE, latents: Int[Tensor, " latents"], rows: Int[Tensor, " latents"]
) -> SAE:
    """Return the SAE with decoder row ``rows[i]`` in the place of row ``latents[i]``."""
    W_dec = sae.W_dec.clone()
    W_dec[latents.to(sae.device)] = sae.W_dec[rows]
    return replace(sae, W_dec=W_dec)


Reach = Literal["next_blocks", "near", "far"]
"""Hook points to try: the same one of the blocks before and after; other kinds there and
in the same block too; or all kinds, up to three blocks away."""

_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_OUTPUTS = ("hook_attn_out", "hook_mlp_out")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_MAX_DISTANCE = {"next_blocks": 1, "near": 1, "far": 3}
"""Reach → number of blocks to try before the SAE's own block, and as many after it."""


def nearby_sites(site: HookSite, hook_points: Collection[str], reach: Reach) -> Iterator[HookSite]:
    """Yield hook points near those of the SAE, the most similar first.

    Args:
        site: Hook points of the SAE. The two of a transcoder move by the same number of blocks.
        hook_points: All hook points of the model.
        reach: How far to go.
    """
    if site.read == site.replaced:
        pairs = [(hook, hook) for hook in _nearby_hooks(site.read, reach)]
    else:
        pairs = [
            (_move(site.read, blocks), _move(site.replaced, blocks)) for blocks in _shifts(reach)
        ]
    for read, replaced in pairs:
        exists = read in hook_points and replaced in hook_points
        if exists and (read, replaced) != (site.read, site.replaced):
            yield HookSite(read, replaced)


def _nearby_hooks(hook: str, reach: Reach) -> Iterator[str]:
    match = _BLOCK.fullmatch(hook)
    if match is None:
        return
    block, kind = int(match[1]), match[2]
    for shift in _shifts(reach):
        yield f"blocks.{block + shift}.{kind}"
    if reach == "next_blocks":
        return
    in_stream = kind in _RESIDUAL
    residual_kinds = _RESIDUAL if in_stream or reach == "far" else ()
    for other in (*residual_kinds, *_OUTPUTS):
        # Kinds unlike the hook's own are tried in its own block only, unless the reach is far.
        all_shifts = reach == "far" or (in_stream and other in _RESIDUAL)
        for shift in _shifts(reach) if all_shifts else (0,):
            if other != kind:
                yield f"blocks.{block + shift}.{other}"


def _shifts(reach: Reach) -> list[int]:
    """Return the numbers of blocks to move by, the smallest first: 0, -1, 1 and so on."""
    return sorted(range(-_MAX_DISTANCE[reach], _MAX_DISTANCE[reach] + 1), key=abs)


def _move(hook: str, blocks: int) -> str:
    return _BLOCK.sub(lambda match: f"blocks.{int(match[1]) + blocks}.{match[2]}", hook)


_OCTAVES = range(-8, 9)
"""Exponents of the scales 1/256 to 256."""
_GOLDEN_STEPS = 8  # narrow two octaves to 0.04, which is 3 % of the scale
_GOLDEN = (math.sqrt(5) - 1) / 2


def best_scale(
    sae: SAE, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]
) -> float:
    """Return the input scale at which the SAE was probably trained.

    The search first takes the power of two that explains most variance. Around it, the constant
    part of the error is smallest at the scale of the training. Explained variance is no guide
    there: it may be largest at another scale, which makes up for shrunken latents.

    Args:
        sae: The SAE as loaded.
        x: Activations that the SAE reads.
        y: Activations to be reconstructed.

    Returns:
        The factor by which to multiply the input, and to divide the reconstruction.
    """

    def fit(exponent: float) -> Fit:
        return fit_sae(variants.with_scale(sae, "", 2.0**exponent).sae, x, y)

    explained = {octave: fit(octave).explained_variance for octave in _OCTAVES}
    finite = {octave: value for octave, value in explained.items() if math.isfinite(value)}
    middle = max(finite, key=lambda octave: finite[octave], default=0)
    exponent = _minimise(lambda exponent: fit(exponent).constant, middle - 1.0, middle + 1.0)
    return float(2.0**exponent)


def _minimise(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum between ``low`` and ``high`` has it.

    Golden-section search (Kiefer 1953), which evaluates the function once per step.
    """
    inner_low, inner_high = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_inner_low, at_inner_high = function(inner_low), function(inner_high)
    for _ in range(_GOLDEN_STEPS):
        if at_inner_low < at_inner_high:
            high, inner_high, at_inner_high = inner_high, inner_low, at_inner_low
            inner_low = high - _GOLDEN * (high - low)
            at_inner_low = function(inner_low)
        else:
            low, inner_low, at_inner_low = inner_low, inner_high, at_inner_high
            inner_high = low + _GOLDEN * (high - low)
            at_inner_high = function(inner_high)
    return inner_low if at_inner_low < at_inner_high else inner_high
