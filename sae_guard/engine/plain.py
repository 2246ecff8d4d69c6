"""The plain reference path: every run is a run of the whole model, and every logit exists.

Logits are the model's own, but those of halves, which `LanguageModel` makes in float32.

Two passes over the corpus: the first finds μ, the mean activation of all scored tokens; the second
runs each batch clean, patched, zero-ablated and mean-ablated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.core.metrics import ALL_COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import token_metrics as formulas
from sae_guard.engine.ablation import replacing
from sae_guard.engine.intervention import Place
from sae_guard.engine.random_error import with_random_error
from sae_guard.engine.token_metrics import (
    ABLATIONS,
    COUNTS,
    DEVIATIONS,
    LATENTS,
    LOSSES,
    RECONSTRUCTIONS,
    ModelRun,
    Predictions,
)
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE


def mean_activation(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    batches: Iterable[slice],
) -> Float[Tensor, " d_out"]:
    """μ over the scored tokens, in float64."""
    total, count = torch.zeros(sae.d_out, dtype=torch.float64), 0
    for rows in batches:
        tokens, scored = corpus.tokens[rows], corpus.scored[rows]
        _, x, y = at.clean(model, tokens)
        at.check_widths(x, y, tokens, sae)
        total += y.cpu().double()[scored].sum(dim=0)
        count += int(scored.sum())
    return total / max(count, 1)


class Batch(NamedTuple):
    """What some windows give: per window, per token (float32, 0 where unscored) and per latent."""

    sums: dict[str, Float[Tensor, " batch"]]
    tokens: dict[str, Float[Tensor, "batch pos-1"]]
    firings: Int[Tensor, "batch d_sae"]


def batch(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: Place,
    rows: slice,
    mean: Float[Tensor, " d_out"] | None,
    *,
    random_error: bool = False,
) -> Batch:
    """All columns of the windows.

    Without a mean, nothing is ablated: the columns that do not depend on the SAE are left out.
    """
    tokens = corpus.tokens[rows].to(model.device)
    patched, scored = corpus.patched[rows].to(model.device), corpus.scored[rows, :-1]
    clean, x, y = at.clean(model, tokens)
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    reconstruction, latents = sae(x.to(torch.promote_types(x.dtype, torch.float32)).to(sae.device))
    y_hat, latents = reconstruction.to(y), latents[:, :-1]

    def log_probs_with(replacement: Tensor) -> Float[Tensor, "batch pos vocab"]:
        return _log_probs_with(model, tokens, at.replaced, patched, replacement)

    log_p = formulas.log_probs(clean[:, :-1])
    target = tokens[:, 1:].to(log_p.device)  # a model on several devices gives them on its last

    def losses(run: ModelRun, log_q: Tensor) -> dict[str, Tensor]:
        predictions = Predictions(log_p, log_q, target)
        return {name: loss(predictions) for name, loss in LOSSES[run].items()}

    per_token = {name: count(target) for name, count in COUNTS.items()}
    per_token |= {name: term(latents).sum(dim=-1) for name, term in LATENTS.items()}
    per_token |= {name: of(y, y_hat)[:, :-1] for name, of in RECONSTRUCTIONS.items()}
    per_token |= losses("clean run", log_p) | losses("patched run", log_probs_with(y_hat))
    if random_error:
        replacement = with_random_error(y, y_hat, corpus, range(rows.start, rows.stop))
        per_token |= losses("random error run", log_probs_with(replacement))
    if mean is not None:
        centre = mean.to(y.dtype).to(y.device)
        per_token |= {name: of(y, centre)[:, :-1] for name, of in DEVIATIONS.items()}
        for name, value_of in ABLATIONS.items():
            log_q = log_probs_with(value_of(centre).expand_as(y))
            per_token[name] = formulas.cross_entropy(log_q, target)
    columns = {name: column for name, column in ALL_COLUMNS.items() if name in per_token}
    sums = {
        name: formulas.masked_sums(per_token[name], scored.to(per_token[name].device))
        for name, column in columns.items()
        if column.summed
    }
    of_tokens = {
        name: torch.where(scored, per_token[name].cpu().float(), 0)
        for name, column in columns.items()
        if column.of_tokens
    }
    fired = formulas.active(latents) & scored.to(latents.device)[..., None]
    return Batch(sums, of_tokens, fired.sum(dim=1).cpu())


def _log_probs_with(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    hook: str,
    patched: Bool[Tensor, "batch pos"],
    replacement: Float[Tensor, "batch pos d_out"],
) -> Float[Tensor, "batch pos-1 vocab"]:
    logits = model.logits_with(tokens, hook, replacing(replacement, patched))
    return formulas.log_probs(logits[:, :-1])
