"""`examine`: one batch, and what else would fit it."""

from __future__ import annotations

from dataclasses import replace

import torch

from sae_guard.core.diagnosis import Examination
from sae_guard.corpus import Corpus
from sae_guard.engine import Place
from sae_guard.examination.batch import Batch
from sae_guard.examination.first_look import first_look
from sae_guard.examination.places import places
from sae_guard.examination.trials import Trials
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE

_LEAST_TOKENS = 64


@torch.inference_mode()
def examine(
    model: LanguageModel, sae: SAE, corpus: Corpus, at: Place, *, thorough: bool = False
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
