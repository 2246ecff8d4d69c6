"""The runs of one SAE on the fast path: it is patched into the suffix of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.core.metrics import ALL_COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine.ablation import replacing
from sae_guard.engine.batches import per_row, per_token
from sae_guard.engine.clean_run import CleanRun
from sae_guard.engine.intervention import HookSite
from sae_guard.engine.random_error import with_random_error
from sae_guard.engine.token_metrics import COUNTS, LATENTS, RECONSTRUCTIONS, ModelRun
from sae_guard.model import Suffix
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import Coded, code


class SaeRun:
    """The columns of every sequence but those of the hook point, batch by batch."""

    def __init__(
        self,
        suffix: Suffix,
        sae: SAE,
        corpus: Corpus,
        at: HookSite,
        *,
        random_error: bool = False,
        spread: bool = False,
    ) -> None:
        self.suffix = suffix
        self.sae = sae
        self.corpus = corpus
        self.at = at
        self.random_error = random_error
        """Whether KL with a random error of the same length is measured too."""
        n, shape = len(corpus.tokens), corpus.scored[:, :-1].shape
        columns = {
            name: column
            for name, column in ALL_COLUMNS.items()
            if not column.of_hook_point and (random_error or "random error run" not in column.needs)
        }
        self.sums = {
            name: torch.zeros(n, dtype=torch.float64)
            for name, column in columns.items()
            if column.summed
        }
        self.tokens = {
            name: torch.zeros(shape) for name, column in columns.items() if column.of_tokens
        }
        self.firings = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.done = torch.zeros(n, dtype=torch.bool)
        self.spread = torch.zeros(2, sae.d_sae, dtype=torch.float64) if spread else None
        """Where asked for, Σ c² and Σ c·n over sequences with c firings of a latent on n tokens."""
        self._fired = self.firings
        """Of the batch whose losses are to come."""
        self._spread = self.spread

    def finals(
        self, rows: slice, clean_run: CleanRun
    ) -> dict[ModelRun, Float[Tensor, "scored d_model"]]:
        """Compute the final hidden states of the scored tokens with the reconstruction patched in,
        and with the random error if it is measured.

        What is known of the windows without their losses is summed.
        """
        tokens, scored = self.corpus.tokens[rows], self.corpus.scored[rows, :-1]
        x, y = (
            clean_run.activations[self.suffix.source(hook)]
            for hook in (self.at.read, self.at.replaced)
        )
        self.at.check_widths(x, y, tokens, self.sae)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        coded = self._code(x, rows)
        y_hat = coded.reconstruction.view(*x.shape[:2], -1).to(y)
        target, picked = tokens[:, 1:][scored], scored.to(y.device)
        self._sum(rows, {name: count(target) for name, count in COUNTS.items()})
        self._sum(rows, {
            name: formula(y, y_hat)[:, :-1][picked] for name, formula in RECONSTRUCTIONS.items()
        })  # fmt: skip
        finals: dict[ModelRun, Tensor] = {"patched run": self._final_with(y_hat, rows, clean_run)}
        if self.random_error:
            replacement = with_random_error(y, y_hat, self.corpus, range(rows.start, rows.stop))
            finals["random error run"] = self._final_with(replacement, rows, clean_run)
        return finals

    def take(self, rows: slice, losses: Mapping[str, Float[Tensor, " scored"]]) -> None:
        """Sum the losses of the windows whose `finals` were the last; they are done."""
        self._sum(rows, losses)
        self.firings = self.firings + self._fired
        if self.spread is not None and self._spread is not None:
            self.spread = self.spread + self._spread
        self.done[rows] = True

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` takes."""
        tokens = {f"token.{name}": values for name, values in self.tokens.items()}
        spread = {} if self.spread is None else {"spread": self.spread}
        return {**self.sums, **tokens, **spread, "firings": self.firings, "done": self.done}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from where the run of these tensors was."""
        self.sums = {name: tensors[name] for name in self.sums}
        self.tokens = {name: tensors[f"token.{name}"] for name in self.tokens}
        self.firings, self.done = tensors["firings"], tensors["done"]
        self.spread = None if self.spread is None else tensors.get("spread")

    def _final_with(
        self, replacement: Float[Tensor, "batch pos d_out"], rows: slice, clean_run: CleanRun
    ) -> Float[Tensor, "scored d_model"]:
        device, scored = self.suffix.model.device, self.corpus.scored[rows, :-1]
        edit = replacing(replacement, self.corpus.patched[rows].to(device))
        tokens, residual = (
            self.corpus.tokens[rows].to(device),
            clean_run.activations[self.suffix.entry],
        )
        final = self.suffix.final_with(tokens, residual, self.at.replaced, edit)[:, :-1]
        return final[scored.to(final.device)]

    def _code(self, x: Float[Tensor, "batch pos d_in"], rows: slice) -> Coded:
        """Code the activations, and sum the columns of the latents."""
        wide = torch.promote_types(x.dtype, torch.float32)
        scored = self.corpus.scored[rows]
        # Of windows that were done before, in other batches, the firings are counted.
        new = (scored & ~self.done[rows, None]).flatten().to(self.sae.device)
        x = x.to(wide).flatten(0, 1).to(self.sae.device)
        # L0 is counted in any case, with the firings.
        terms = {name: term for name, term in LATENTS.items() if name != "l0"}
        coded = code(self.sae, x, scored=new, terms=terms, pairs=self.spread is not None)
        if coded.pairs is not None:
            self._spread = spread_of(coded.pairs, new.view(len(scored), -1), self.sae.d_sae).cpu()
        picked = scored.flatten().to(self.sae.device)
        columns = {"l0": coded.l0, **coded.sums}
        self._sum(rows, {name: values[picked] for name, values in columns.items()})
        self._fired = coded.firings.cpu()
        return coded

    def _sum(self, rows: slice, values: Mapping[str, Float[Tensor, " scored"]]) -> None:
        scored = self.corpus.scored[rows, :-1]
        for name, value in values.items():
            if name in self.sums:
                self.sums[name][rows] = per_row(value, scored)
            if name in self.tokens:
                self.tokens[name][rows] = per_token(value, scored)


def spread_of(
    pairs: Int[Tensor, "2 active"], scored: Bool[Tensor, "batch pos"], d_sae: int
) -> Float[Tensor, "2 d_sae"]:
    """Sum c² and c·n over sequences of n scored tokens, c of which a latent is active on.

    Args:
        pairs: Scored tokens, as a flat batch numbers them, each with an active latent.
        scored: Which tokens are.
        d_sae: Latents.
    """
    token, latent = pairs
    row_of = torch.arange(len(scored), device=pairs.device).repeat_interleave(scored.shape[1])
    where, count = (row_of[token] * d_sae + latent).unique(return_counts=True)
    exact = torch.float32 if pairs.device.type == "mps" else torch.float64
    c, n = count.to(exact), scored.sum(dim=1).to(exact)[where // d_sae]
    sums: Tensor = c.new_zeros(2, d_sae)
    return sums.index_add_(1, where % d_sae, torch.stack([c * c, c * n]))
