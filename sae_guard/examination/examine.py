"""`examine`: run an SAE, as loaded and in variants, on one batch; `core.diagnosis` judges it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.core.diagnosis import Examination, Group
from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite
from sae_guard.examination.batch import ExaminedBatch
from sae_guard.examination.fitting import compute_fit, share_along_ones, share_near_thresholds
from sae_guard.examination.trials import Trials, nearby_sites
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import sparse_forward

_FEWEST_TOKENS = 64
"""Fewest ordinary tokens to examine: sums over fewer say too little."""


@torch.inference_mode()
def examine(
    model: LanguageModel, sae: SAE, corpus: Corpus, site: HookSite, *, thorough: bool = False
) -> Examination | None:
    """Examine on about a thousand tokens whether an SAE was loaded and placed correctly.

    If the SAE reconstructs well, this costs one clean run and three passes of the SAE: at its hook
    point, and at the same hook point of the blocks before and after. If not, some twenty passes
    more try other kinds of hook points, the other pre-bias, normalisations, scales and numbers of
    active latents.

    Args:
        model: Language model; it runs on its own device.
        sae: The SAE as loaded; it may be on another device.
        corpus: Token set, whose first windows are examined.
        site: Hook points that the SAE reads and replaces.
        thorough: Make all trials, at hook points up to three blocks away too, even if the SAE
            reconstructs well; and measure KL with the loaded SAE and the best trials patched in.

    Returns:
        The numbers for `core.diagnosis.diagnose`; None if there are too few ordinary tokens.

    Raises:
        SetupError: The model has no such hook point.
        LoadError: The SAE is not as wide as the hook point.
    """
    batch = ExaminedBatch.from_corpus(model, corpus, site)
    next_blocks = nearby_sites(site, model.bridge.hook_dict, "next_blocks")
    hooks = [*site.hooks, *(hook for other in next_blocks for hook in other.hooks)]
    batch.run_model_where_possible(hooks)  # all of them in one clean run
    x, y = batch.activations(site.read), batch.activations(site.replaced)
    site.check_widths(x, y, batch.corpus.tokens, sae)
    if int(batch.ordinary.sum()) < _FEWEST_TOKENS:
        return None
    examination, firings = examine_as_loaded(batch, sae)
    if not examination.reconstructs:
        return examination
    trials = Trials(batch, sae, examination.loaded, thorough=thorough)
    # Even a sound SAE is compared with its neighbours: it may fit the next block better.
    if examination.sound and not thorough:
        return replace(examination, trials=tuple(trials.at_next_blocks()))
    pairing, results = trials.all(firings)
    loaded = examination.loaded
    if thorough:
        loaded = trials.with_kl(loaded, sae)
    return replace(
        examination, loaded=loaded, pairing=pairing, trials=tuple(results), thorough=thorough
    )


# Formats of end-to-end SAEs, trained for the predictions of the patched model and not to
# reconstruct (Braun et al. 2024, "Identifying functionally important features with end-to-end
# sparse dictionary learning"): their x̂ may be far from x.
_END_TO_END = ("e2e_sae",)


def examine_as_loaded(batch: ExaminedBatch, sae: SAE) -> tuple[Examination, Int[Tensor, " d_sae"]]:
    """Return the examination of the SAE as loaded, and how often each latent fired.

    Sums are in float64, on the CPU.
    """
    scored = batch.corpus.scored
    x, y = (
        batch.activations(hook)[scored.to(batch.activations(hook).device)]
        for hook in (batch.site.read, batch.site.replaced)
    )
    forward = sparse_forward(sae, x.to(sae.device))
    y, y_hat = y.cpu().double(), forward.reconstruction.cpu().double()  # [scored, d_out]
    ordinary = batch.ordinary[scored]  # [scored]
    l0 = float(forward.l0.cpu()[ordinary].double().mean())
    firings = forward.firings.cpu()
    # The rows of latents that never fire may be anything, and change nothing.
    norms = sae.decoder_norms().cpu()[firings > 0]
    return Examination(
        n_tokens=int(ordinary.sum()),
        architecture=sae.activation.architecture,
        processing=batch.model.processing,
        loaded=compute_fit(y[ordinary], y_hat[ordinary], l0),
        decoder_norms=(float(norms.min()), float(norms.max())) if len(norms) else (0.0, 0.0),
        zero_bias=not bool(sae.b_dec.any()),
        ones_in_error=share_along_ones((y - y_hat)[ordinary]),
        ones_in_activation=share_along_ones(y[ordinary]),
        groups=tuple(_groups(batch, y, y - y_hat)),
        near_thresholds=share_near_thresholds(sae, x[ordinary.to(x.device)]),
        reconstructs=sae.source.format not in _END_TO_END,
    ), firings


def _groups(
    batch: ExaminedBatch, y: Float[Tensor, "scored d_out"], error: Float[Tensor, "scored d_out"]
) -> list[Group]:
    """Return the share of each group in the squared error, without empty groups."""
    scored = batch.corpus.scored
    squared_error, squared_norm = error.square().sum(dim=-1), y.square().sum(dim=-1)

    def relative_error(mask: Tensor) -> float:
        return float(squared_error[mask].sum() / squared_norm[mask].sum())

    return [
        Group(
            name,
            tokens=float(in_group.double().mean()),
            error=float(squared_error[in_group].sum() / squared_error.sum()),
            relative=relative_error(in_group),
            ordinary=relative_error(batch.ordinary[scored]),
        )
        for name, mask in batch.groups.items()
        if bool((in_group := mask[scored]).any())
    ]
