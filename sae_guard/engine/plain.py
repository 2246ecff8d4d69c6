"""The plain reference path: every run is a run of the whole model, and every logit exists.

Logits are the model's own, but those of halves, which `LanguageModel` makes in float32.

Two passes over the corpus: the first finds μ, the mean activation of all scored tokens; the second
runs each batch clean, patched, zero-ablated and mean-ablated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.core.metrics import ALL_COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import token_metrics as formulas
from sae_guard.engine.ablation import replacing
from sae_guard.engine.batches import in_halves
from sae_guard.engine.intervention import HookSite
from sae_guard.engine.random_error import with_random_error
from sae_guard.engine.sweep import PathResult, SweepPath
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


class PlainPath(SweepPath):
    """The runs of one SAE: all of them runs of the whole model."""

    every_logit = True

    def __init__(
        self,
        model: LanguageModel,
        sae: SAE,
        corpus: Corpus,
        at: HookSite,
        *,
        because: str,
        random_error: bool = False,
        spread: bool = False,
    ) -> None:
        self.hook = at.read
        self._model, self._sae, self._corpus, self._at = model, sae, corpus, at
        self._random_error = random_error
        self._because = because
        """Why this path is taken."""
        self._sums: dict[str, Float[Tensor, " sequences"]] = {}
        self._tokens: dict[str, Float[Tensor, "sequences pos-1"]] = {}
        self._firings = torch.zeros(sae.d_sae, dtype=torch.int64)
        self._spread = torch.zeros(2, sae.d_sae, dtype=torch.float64) if spread else None
        self._done = torch.zeros(len(corpus.tokens), dtype=torch.bool)
        self._mean = torch.zeros(sae.d_out, dtype=torch.float64)

    def begin(self, stretches: Sequence[slice], windows: Iterable[slice]) -> None:
        """Find μ over the scored tokens, in a pass over all windows."""
        for rows in windows:
            in_halves(self._add_to_mean, rows)
        self._mean = self._mean / max(int(self._corpus.scored.sum()), 1)

    def run(self, rows: slice) -> None:
        """Run a batch."""
        in_halves(self._run, rows)

    @property
    def whole(self) -> bool:
        """Say whether no window is left to run."""
        return bool(self._done.all())

    def results(self) -> list[PathResult | str]:
        """Return what is measured by now; NaN in the rows of windows that were not run."""
        paths = {"forward": "whole model", "because": self._because}
        return [
            PathResult(self._sums, self._tokens, self._firings, self._mean, paths, self._spread)
        ]

    def _add_to_mean(self, rows: slice) -> None:
        tokens, scored = self._corpus.tokens[rows], self._corpus.scored[rows]
        _, x, y = self._at.clean(self._model, tokens)
        self._at.check_widths(x, y, tokens, self._sae)
        self._mean += y.cpu().double()[scored].sum(dim=0)

    def _run(self, rows: slice) -> None:
        part = batch(
            self._model, self._sae, self._corpus, self._at, rows, self._mean,
            random_error=self._random_error,
        )  # fmt: skip
        for columns, values in ((self._sums, part.sums), (self._tokens, part.tokens)):
            for name, value in values.items():
                if name not in columns:
                    columns[name] = value.new_full((len(self._done), *value.shape[1:]), torch.nan)
                columns[name][rows] = value
        self._firings = self._firings + part.firings.sum(dim=0)
        if self._spread is not None:
            c = part.firings.double()
            spread = torch.stack([c.square().sum(dim=0), part.sums["n_tokens"] @ c])
            self._spread = self._spread + spread
        self._done[rows] = True


class Batch(NamedTuple):
    """What some windows give: per window, per token (float32, 0 where unscored) and per latent."""

    sums: dict[str, Float[Tensor, " batch"]]
    tokens: dict[str, Float[Tensor, "batch pos-1"]]
    firings: Int[Tensor, "batch d_sae"]


def batch(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    at: HookSite,
    rows: slice,
    mean: Float[Tensor, " d_out"] | None,
    *,
    random_error: bool = False,
) -> Batch:
    """Compute all columns of the windows.

    Args:
        model: Run whole, clean and with each replacement.
        sae: Whose reconstruction is put in.
        corpus: The windows.
        at: Where the SAE reads and what it replaces.
        rows: Which windows.
        mean: μ; without it nothing is ablated, and the columns of the hook point are left out.
        random_error: Whether to run with a random error too.
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
