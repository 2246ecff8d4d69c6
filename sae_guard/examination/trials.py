"""The same batch with one thing done otherwise, for each of many things.

Among them are whether encoder and decoder belong together, by the cosines of their latents'
vectors; the places near to one, where an SAE may belong instead; and the input scale that it fits
best.
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
from sae_guard.examination.batch import Batch
from sae_guard.examination.fitting import fitted, most_firing
from sae_guard.examination.selection import selections
from sae_guard.examination.variants import (
    Variant,
    biases,
    centred,
    elsewhere,
    normalisations,
    reordered,
    scaled,
    scaled_decoder,
    scales,
)
from sae_guard.sae import SAE

_LATENTS = 2**10
_PAIRED = 0.5
_OTHER_SCALE = math.log(1.15)
# What the model is run with, beside what was loaded, and on how much.
_BEST = 4
_WINDOWS = 4


class Trials:
    """What is tried of an SAE on a batch."""

    def __init__(self, batch: Batch, sae: SAE, loaded: Fit, *, thorough: bool) -> None:
        self._batch = batch
        self._sae = sae
        self._loaded = loaded
        self._thorough = thorough

    def beside(self) -> list[Trial]:
        """At the same hook point of the blocks before and after."""
        return [_trial(self._batch, variant) for variant in self._elsewhere("beside")]

    def all(self, firings: Int[Tensor, " d_sae"]) -> tuple[Pairing | None, list[Trial]]:
        """How encoder and decoder pair up, and all trials: those that explain most with KL."""
        pairing, matched = self._pairing(firings)
        variants = [*self._variants(), *matched]
        found = [(variant, _trial(self._batch, variant)) for variant in variants]
        if self._thorough:
            found.sort(key=lambda each: each[1].fit.rank)
            found[:_BEST] = [(each, self._patched(each, trial)) for each, trial in found[:_BEST]]
        return pairing, [trial for _, trial in found]

    def with_kl(self, fit: Fit, sae: SAE, place: HookSite) -> Fit:
        """The fit with KL, of the model patched with the reconstruction on a few windows."""
        batch = self._batch
        kl = tokens = 0.0
        for row in range(min(_WINDOWS, len(batch.corpus.tokens))):
            rows = slice(row, row + 1)  # every logit of a window exists
            sums = plain.batch(batch.model, sae, batch.corpus, place, rows, None).sums
            kl += float(sums["kl"].sum())
            tokens += float(sums["n_tokens"].sum())
        return replace(fit, kl=kl / tokens if tokens else None)

    def _patched(self, variant: Variant, trial: Trial) -> Trial:
        if variant.centred:  # the activations of centred weights are not those of this model
            return trial
        return replace(trial, fit=self.with_kl(trial.fit, variant.sae, variant.place))

    def _variants(self) -> Iterator[Variant]:
        sae, place, model = self._sae, self._batch.place, self._batch.model
        x, y = self._batch.at(place.read), self._batch.at(place.replaced)
        yield from self._elsewhere("far" if self._thorough else "near")
        yield from biases(sae, place)
        yield from normalisations(sae, place)
        yield from scales(sae, place, x)
        if self._thorough and not sae.transcoder:
            scale = best_scale(sae, place, x, y)
            if abs(math.log(scale / sae.scale_in)) > _OTHER_SCALE:
                yield scaled(sae, place, "the input scaled as fits best", scale)
        if model.processing == "raw" and model.uses_layer_norm:
            yield from centred(sae, place)
        yield from selections(sae, place, x, y, self._loaded.l0)
        if math.isfinite(self._loaded.factor):
            yield scaled_decoder(sae, place, self._loaded.factor)

    def _elsewhere(self, reach: Reach) -> Iterator[Variant]:
        batch, sae = self._batch, self._sae
        found = list(places(batch.place, batch.model.bridge.hook_dict, reach))
        fires = set(batch.look_where_possible([hook for at in found for hook in at.hooks]))
        known = [self._seen(batch.place)]
        for at in found:
            if not fires.issuperset(at.hooks):
                continue
            x, y = self._seen(at)
            # What leaves one block enters the next: some places have two names.
            double = any(_same(x, one) and _same(y, other) for one, other in known)
            if (x.shape[-1], y.shape[-1]) == (sae.d_in, sae.d_out) and not double:
                known.append((x, y))
                yield elsewhere(sae, at)

    def _seen(self, at: HookSite) -> tuple[Tensor, Tensor]:
        return self._batch.whole(at.read), self._batch.whole(at.replaced)

    def _pairing(self, firings: Int[Tensor, " d_sae"]) -> tuple[Pairing | None, list[Variant]]:
        sae = self._sae
        latents = most_firing(firings, _LATENTS)
        if sae.transcoder or not len(latents):
            return None, []
        pairing, _ = nearest_rows(sae, latents)
        if pairing.own_share >= _PAIRED:
            return pairing, []
        fired = most_firing(firings, sae.d_sae)
        _, rows = nearest_rows(sae, fired)
        return pairing, [reordered(rematched(sae, fired, rows), self._batch.place)]


def _trial(batch: Batch, variant: Variant) -> Trial:
    x, y = batch.at(variant.place.read), batch.at(variant.place.replaced)
    if variant.centred:
        x, y = (value - value.mean(dim=-1, keepdim=True) for value in (x, y))
    fit = fitted(variant.sae, x, y)
    return Trial(variant.name, variant.change, variant.remedy, fit, variant.options)


def _same(x: Tensor, other: Tensor) -> bool:
    return x.device == other.device and torch.equal(x, other)


# Cosines that exist at once.
_ELEMENTS = 2**24


def nearest_rows(
    sae: SAE, latents: Int[Tensor, " latents"]
) -> tuple[Pairing, Int[Tensor, " latents"]]:
    """How these latents' encoder columns lie to the decoder's rows, and which rows are nearest.

    Args:
        sae: That reads and writes the same space.
        latents: Some of them, at least one.
    """
    latents = latents.to(sae.device)
    columns = normalize(sae.W_enc[:, latents].T, dim=-1)
    own = (columns * normalize(sae.W_dec[latents], dim=-1)).sum(dim=-1)
    best = own.new_full((len(latents),), -2.0)
    row = latents.clone()
    step = max(1, _ELEMENTS // len(latents))
    for start in range(0, sae.d_sae, step):
        cosines = columns @ normalize(sae.W_dec[start : start + step], dim=-1).T
        found = cosines.max(dim=-1)
        row = torch.where(found.values > best, found.indices + start, row)
        best = torch.maximum(best, found.values)
    # Rows that are doubles of each other are no mistake.
    is_own = (row == latents) | (own >= best - 1e-6)
    pairing = Pairing(
        own=float(own.median()), best=float(best.median()), own_share=float(is_own.float().mean())
    )
    return pairing, row


def rematched(sae: SAE, latents: Int[Tensor, " latents"], rows: Int[Tensor, " latents"]) -> SAE:
    """The SAE with the decoder rows of these latents replaced by others of its own."""
    W_dec = sae.W_dec.clone()
    W_dec[latents.to(sae.device)] = sae.W_dec[rows]
    return replace(sae, W_dec=W_dec)


Reach = Literal["beside", "near", "far"]
"""The same hook point of the next blocks; other kinds too; all kinds, three blocks each way."""

_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_OUTPUTS = ("hook_attn_out", "hook_mlp_out")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_BLOCKS = {"beside": 1, "near": 1, "far": 3}


def places(place: HookSite, known: Collection[str], reach: Reach) -> Iterator[HookSite]:
    """Other places, the most alike first.

    Args:
        place: Where the SAE is. A transcoder's hook points move together.
        known: Hook points of the model.
        reach: How far to go.
    """
    if place.read == place.replaced:
        pairs = [(hook, hook) for hook in _neighbours(place.read, reach)]
    else:
        blocks = _distances(reach)
        pairs = [(_shifted(place.read, n), _shifted(place.replaced, n)) for n in blocks]
    for read, replaced in pairs:
        if read in known and replaced in known and (read, replaced) != (place.read, place.replaced):
            yield HookSite(read, replaced)


def _neighbours(hook: str, reach: Reach) -> Iterator[str]:
    found = _BLOCK.fullmatch(hook)
    if found is None:
        return
    block, kind = int(found[1]), found[2]
    for blocks in _distances(reach):
        yield f"blocks.{block + blocks}.{kind}"
    if reach == "beside":
        return
    in_stream = kind in _RESIDUAL
    streams = _RESIDUAL if in_stream or reach == "far" else ()
    for other in (*streams, *_OUTPUTS):
        everywhere = reach == "far" or (in_stream and other in _RESIDUAL)
        for blocks in _distances(reach) if everywhere else (0,):
            if other != kind:
                yield f"blocks.{block + blocks}.{other}"


def _distances(reach: Reach) -> list[int]:
    return sorted(range(-_BLOCKS[reach], _BLOCKS[reach] + 1), key=abs)


def _shifted(hook: str, blocks: int) -> str:
    return _BLOCK.sub(lambda found: f"blocks.{int(found[1]) + blocks}.{found[2]}", hook)


_OCTAVES = range(-8, 9)
_STEPS = 8
_GOLDEN = (math.sqrt(5) - 1) / 2


def best_scale(
    sae: SAE, place: HookSite, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]
) -> float:
    """What the input has to be multiplied by, and the reconstruction divided by.

    The octave that explains most holds it. In it the constant part of the error is least where the
    training had it; explained variance may be largest elsewhere, where shrinkage is made up for.
    """

    def fit(exponent: float) -> Fit:
        return fitted(scaled(sae, place, "", 2.0**exponent).sae, x, y)

    explained = {octave: fit(octave).explained_variance for octave in _OCTAVES}
    finite = {octave: value for octave, value in explained.items() if math.isfinite(value)}
    middle = max(finite, key=lambda octave: finite[octave], default=0)
    exponent = _least(lambda exponent: fit(exponent).constant, middle - 1.0, middle + 1.0)
    return float(2.0**exponent)


def _least(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between the two is least, by the golden section."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(right)
    return left if at_left < at_right else right
