"""The plain reference path: every run is a run of the complete model, and computes all logits.

The logits are the model's own, except in half precision, where `LanguageModel` computes them in
float32.

There are two passes over the corpus. The first computes μ, the mean activation of all scored
tokens. The second runs each batch clean, patched, zero-ablated and mean-ablated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.core.metrics import ALL_COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import token_metrics as formulas
from sae_guard.engine.ablation import replacement_edit
from sae_guard.engine.batches import halve_on_oom
from sae_guard.engine.intervention import HookSite
from sae_guard.engine.random_error import with_random_error
from sae_guard.engine.sweep import PathResult, SweepPath
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE


class PlainPath(SweepPath):
    """Measures one SAE by runs of the complete model."""

    every_logit = True

    def __init__(
        self,
        model: LanguageModel,
        sae: SAE,
        corpus: Corpus,
        site: HookSite,
        *,
        reason: str,
        random_error: bool = False,
        spread: bool = False,
    ) -> None:
        """Prepare the measurement; nothing is run yet.

        Args:
            model: Language model.
            sae: SAE.
            corpus: Windows.
            site: Hook points that the SAE reads and replaces.
            reason: Reason why this path is taken, for `Provenance.paths`.
            random_error: As in `engine.measure`.
            spread: As in `engine.measure_until`.
        """
        self.hook = site.read
        self._model, self._sae, self._corpus, self._site = model, sae, corpus, site
        self._random_error = random_error
        self._reason = reason
        self._sums: dict[str, Float[Tensor, " sequences"]] = {}
        self._tokens: dict[str, Float[Tensor, "sequences pos-1"]] = {}
        self._firings = torch.zeros(sae.d_sae, dtype=torch.int64)
        self._spread = torch.zeros(2, sae.d_sae, dtype=torch.float64) if spread else None
        self._done = torch.zeros(len(corpus.tokens), dtype=torch.bool)
        self._mean = torch.zeros(sae.d_out, dtype=torch.float64)

    def begin(self, segments: Sequence[slice], windows: Iterable[slice]) -> None:
        """Compute μ over the scored tokens, in a pass over all windows."""
        for rows in windows:
            halve_on_oom(self._add_to_mean, rows)
        self._mean = self._mean / max(int(self._corpus.scored.sum()), 1)

    def run(self, rows: slice) -> None:
        """Run a batch."""
        halve_on_oom(self._run, rows)

    @property
    def is_complete(self) -> bool:
        """True if all windows were run."""
        return bool(self._done.all())

    def results(self) -> list[PathResult | str]:
        """Return the numbers so far; rows of windows that were not run are NaN."""
        paths = {"forward": "whole model", "because": self._reason}
        return [
            PathResult(self._sums, self._tokens, self._firings, self._mean, paths, self._spread)
        ]

    def _add_to_mean(self, rows: slice) -> None:
        tokens, scored = self._corpus.tokens[rows], self._corpus.scored[rows]
        _, x, y = self._site.clean(self._model, tokens)
        self._site.check_widths(x, y, tokens, self._sae)
        self._mean += y.cpu().double()[scored].sum(dim=0)  # on the CPU: MPS has no float64

    def _run(self, rows: slice) -> None:
        result = batch(
            self._model, self._sae, self._corpus, self._site, rows, self._mean,
            random_error=self._random_error,
        )  # fmt: skip
        for columns, values in ((self._sums, result.sums), (self._tokens, result.tokens)):
            for name, value in values.items():
                if name not in columns:
                    columns[name] = value.new_full((len(self._done), *value.shape[1:]), torch.nan)
                columns[name][rows] = value
        self._firings = self._firings + result.firings.sum(dim=0)
        if self._spread is not None:
            c = result.firings.double()  # [batch, d_sae]
            # Σc² and Σc·n over the windows, [2, d_sae].
            spread = torch.stack([c.square().sum(dim=0), result.sums["n_tokens"] @ c])
            self._spread = self._spread + spread
        self._done[rows] = True


class Batch(NamedTuple):
    """All columns of some windows."""

    sums: dict[str, Float[Tensor, " batch"]]
    """Column → float64 sum over the scored tokens of each window."""
    tokens: dict[str, Float[Tensor, "batch pos-1"]]
    """Column → float32 value of each token; 0 where it is not scored."""
    firings: Int[Tensor, "batch d_sae"]
    """Number of scored tokens of each window on which each latent is active."""


def batch(
    model: LanguageModel,
    sae: SAE,
    corpus: Corpus,
    site: HookSite,
    rows: slice,
    mean: Float[Tensor, " d_out"] | None,
    *,
    random_error: bool = False,
) -> Batch:
    """Compute all columns of some windows.

    Args:
        model: Language model, run clean and with each replacement.
        sae: SAE whose reconstruction replaces the activation.
        corpus: Windows of the corpus.
        site: Hook points that the SAE reads and replaces.
        rows: Windows to run.
        mean: Mean activation μ; None skips the ablations and the columns of the hook point.
        random_error: True to run with a random error too.

    Raises:
        SetupError: A hook point cannot be replaced, or did not fire exactly once.
    """
    tokens = corpus.tokens[rows].to(model.device)
    patched, scored = corpus.patched[rows].to(model.device), corpus.scored[rows, :-1]
    clean, x, y = site.clean(model, tokens)
    # float32 at least for a half-precision model; a float64 model keeps its float64.
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    reconstruction, latents = sae(x.to(torch.promote_types(x.dtype, torch.float32)).to(sae.device))
    y_hat, latents = reconstruction.to(y), latents[:, :-1]  # latents [batch, pos-1, d_sae]

    def log_probs_with(replacement: Tensor) -> Float[Tensor, "batch pos-1 vocab"]:
        edit = replacement_edit(replacement, patched)
        return formulas.log_probs(model.logits_with(tokens, site.replaced, edit)[:, :-1])

    log_p = formulas.log_probs(clean[:, :-1])  # [batch, pos-1, vocab]
    target = tokens[:, 1:].to(log_p.device)  # the last device, if the model is on several

    def losses(run: formulas.ModelRun, log_q: Tensor) -> dict[str, Tensor]:
        predictions = formulas.Predictions(log_p, log_q, target)
        return {name: loss(predictions) for name, loss in formulas.LOSSES[run].items()}

    per_token = {name: count(target) for name, count in formulas.COUNTS.items()}
    per_token |= {name: term(latents).sum(dim=-1) for name, term in formulas.LATENTS.items()}
    per_token |= {
        name: formula(y, y_hat)[:, :-1] for name, formula in formulas.RECONSTRUCTIONS.items()
    }
    per_token |= losses("clean run", log_p) | losses("patched run", log_probs_with(y_hat))
    if random_error:
        replacement = with_random_error(y, y_hat, corpus, range(rows.start, rows.stop))
        per_token |= losses("random error run", log_probs_with(replacement))
    if mean is not None:
        centre = mean.to(y.dtype).to(y.device)
        per_token |= {
            name: formula(y, centre)[:, :-1] for name, formula in formulas.DEVIATIONS.items()
        }
        for name, value_of in formulas.ABLATIONS.items():
            log_q = log_probs_with(value_of(centre).expand_as(y))
            per_token[name] = formulas.cross_entropy(log_q, target)
    columns = {name: column for name, column in ALL_COLUMNS.items() if name in per_token}
    sums = {
        name: formulas.masked_sums(per_token[name], scored.to(per_token[name].device))
        for name, column in columns.items()
        if column.summed
    }
    token_columns = {
        name: torch.where(scored, per_token[name].cpu().float(), 0)
        for name, column in columns.items()
        if column.of_tokens
    }
    fires = formulas.active(latents) & scored.to(latents.device)[..., None]  # [batch, pos-1, d_sae]
    return Batch(sums, token_columns, fires.sum(dim=1).cpu())
