"""The same batch with one thing done otherwise, for each of many things."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from sae_guard.core.diagnosis import Fit, Pairing, Trial
from sae_guard.engine import Place, plain
from sae_guard.examination.batch import Batch
from sae_guard.examination.fitting import fitted, most_firing
from sae_guard.examination.pairing import nearest_rows, rematched
from sae_guard.examination.places import Reach, places
from sae_guard.examination.scale_search import best_scale
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

    def with_kl(self, fit: Fit, sae: SAE, place: Place) -> Fit:
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
        if model.processing == "raw" and model.centres:
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

    def _seen(self, at: Place) -> tuple[Tensor, Tensor]:
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
    return Trial(variant.name, variant.change, variant.remedy, fitted(variant.sae, x, y))


def _same(x: Tensor, other: Tensor) -> bool:
    return x.device == other.device and torch.equal(x, other)
