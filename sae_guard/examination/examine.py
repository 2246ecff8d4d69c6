"""`examine`: what an SAE, as it was loaded, makes of one batch, and what else would fit it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.core.diagnosis import Examination, Group
from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite
from sae_guard.examination.batch import Batch
from sae_guard.examination.fitting import along_ones, fit_of, near_thresholds
from sae_guard.examination.trials import Trials, places
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import code

_LEAST_TOKENS = 64


@torch.inference_mode()
def examine(
    model: LanguageModel, sae: SAE, corpus: Corpus, at: HookSite, *, thorough: bool = False
) -> Examination | None:
    """Examine an SAE at its place on about a thousand tokens.

    Where it fits as training leaves an SAE, that is a clean run and three passes of the SAE: here
    and at the same hook point of the next blocks. Where it does not, twenty or so further passes
    try other kinds of hook points, the other pre-bias, normalisations, scales, numbers of latents.

    Args:
        model: Runs on its own device.
        sae: May lie on another.
        corpus: Of which the first windows are looked at.
        at: Where it reads, and what its reconstruction replaces.
        thorough: Try all, and further away, whether it fits or not; run the model patched with what
            was loaded and with what fits best.

    Returns:
        None where there are too few ordinary tokens to say anything.

    Raises:
        SetupError: Unknown hook point.
        LoadError: The SAE is not as wide as the hook point.
    """
    batch = Batch.of(model, corpus, at)
    beside = places(at, model.bridge.hook_dict, "beside")
    batch.look_where_possible([*at.hooks, *(hook for each in beside for hook in each.hooks)])
    at.check_widths(batch.whole(at.read), batch.whole(at.replaced), batch.corpus.tokens, sae)
    if int(batch.ordinary.sum()) < _LEAST_TOKENS:
        return None
    found, firings = first_look(batch, sae)
    if not found.reconstructs:
        return found
    trials = Trials(batch, sae, found.loaded, thorough=thorough)
    if found.sound and not thorough:
        return replace(found, trials=tuple(trials.beside()))
    pairing, tried = trials.all(firings)
    loaded = trials.with_kl(found.loaded, sae, at) if thorough else found.loaded
    return replace(found, loaded=loaded, pairing=pairing, trials=tuple(tried), thorough=thorough)


# Trained on what the patched model predicts, and not to reconstruct.
_END_TO_END = ("e2e_sae",)


def first_look(batch: Batch, sae: SAE) -> tuple[Examination, Int[Tensor, " d_sae"]]:
    """The examination without trials, and how often each latent fired."""
    scored = batch.corpus.scored
    x, y = (
        batch.whole(hook)[scored.to(batch.whole(hook).device)]
        for hook in (batch.place.read, batch.place.replaced)
    )
    coded = code(sae, x.to(sae.device))
    y, y_hat = y.cpu().double(), coded.reconstruction.cpu().double()
    ordinary = batch.ordinary[scored]
    l0 = float(coded.l0.cpu()[ordinary].double().mean())
    firings = coded.firings.cpu()
    norms = sae.decoder_norms().cpu()[firings > 0]
    return Examination(
        n_tokens=int(ordinary.sum()),
        architecture=sae.activation.architecture,
        processing=batch.model.processing,
        loaded=fit_of(y[ordinary], y_hat[ordinary], l0),
        decoder_norms=(float(norms.min()), float(norms.max())) if len(norms) else (0.0, 0.0),
        zero_bias=not bool(sae.b_dec.any()),
        ones_in_error=along_ones((y - y_hat)[ordinary]),
        ones_in_activation=along_ones(y[ordinary]),
        groups=tuple(_groups(batch, y, y - y_hat)),
        near_thresholds=near_thresholds(sae, x[ordinary.to(x.device)]),
        reconstructs=sae.source.format not in _END_TO_END,
    ), firings


def _groups(
    batch: Batch, y: Float[Tensor, "scored d_out"], error: Float[Tensor, "scored d_out"]
) -> list[Group]:
    scored = batch.corpus.scored
    squared, length = error.square().sum(dim=-1), y.square().sum(dim=-1)

    def relative(chosen: Tensor) -> float:
        return float(squared[chosen].sum() / length[chosen].sum())

    return [
        Group(
            name,
            tokens=float(chosen.double().mean()),
            error=float(squared[chosen].sum() / squared.sum()),
            relative=relative(chosen),
            ordinary=relative(batch.ordinary[scored]),
        )
        for name, mask in batch.groups.items()
        if bool((chosen := mask[scored]).any())
    ]
