"""The fast path of one SAE: what it makes of the windows, patched into the suffix of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import token_metrics as formulas
from sae_guard.engine.ablation import replacing
from sae_guard.engine.batches import per_row, per_token
from sae_guard.engine.clean_run import Base
from sae_guard.engine.intervention import Place
from sae_guard.engine.random_error import COLUMN as RANDOM_ERROR
from sae_guard.engine.random_error import with_random_error
from sae_guard.model import Suffix
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import Coded, code

COLUMNS = (
    "n_tokens", "kl", "ce_clean", "ce_patched", "l0", "l1", "sq_error", "cosine", "l2_ratio",
)  # fmt: skip


TOKEN_COLUMNS = (*(name for name in COLUMNS if name != "n_tokens"), "entropy")


class Run:
    """The sums of every sequence that depend on the SAE, batch by batch."""

    def __init__(
        self,
        suffix: Suffix,
        sae: SAE,
        corpus: Corpus,
        at: Place,
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
        n, asked = len(corpus.tokens), (RANDOM_ERROR,) if random_error else ()
        self.sums = {name: torch.zeros(n, dtype=torch.float64) for name in (*COLUMNS, *asked)}
        shape = corpus.scored[:, :-1].shape
        self.tokens = {name: torch.zeros(shape) for name in (*TOKEN_COLUMNS, *asked)}
        self.firings = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.done = torch.zeros(n, dtype=torch.bool)
        self.spread = torch.zeros(2, sae.d_sae, dtype=torch.float64) if spread else None
        """Where asked for, Σ c² and Σ c·n over sequences with c firings of a latent on n tokens."""
        self._fired = self.firings
        """Of the batch whose losses are to come."""
        self._spread = self.spread

    def finals(self, rows: slice, base: Base) -> dict[str, Float[Tensor, "scored d_model"]]:
        """The final hidden states of the scored tokens with the reconstruction patched in, and with
        the random error if it is measured, by the column that their KL goes to.

        What is known of the windows without their losses is summed.
        """
        tokens, scored = self.corpus.tokens[rows], self.corpus.scored[rows, :-1]
        x, y = (base.seen[self.suffix.source(hook)] for hook in (self.at.read, self.at.replaced))
        self.at.check_widths(x, y, tokens, self.sae)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        coded = self._code(x, rows)
        y_hat = coded.reconstruction.view(*x.shape[:2], -1).to(y)
        picked = scored.to(y.device)
        values = {
            "n_tokens": torch.ones(int(scored.sum())),
            "sq_error": formulas.squared_distance(y, y_hat)[:, :-1][picked],
            "cosine": formulas.cosine(y, y_hat)[:, :-1][picked],
            "l2_ratio": formulas.l2_ratio(y, y_hat)[:, :-1][picked],
        }
        self._sum(rows, values)
        found = {"kl": self._final_with(y_hat, rows, base)}
        if self.random_error:
            replacement = with_random_error(y, y_hat, self.corpus, range(rows.start, rows.stop))
            found[RANDOM_ERROR] = self._final_with(replacement, rows, base)
        return found

    def take(self, rows: slice, losses: Mapping[str, Float[Tensor, " scored"]]) -> None:
        """Sum the losses of the windows whose `finals` were the last; they are done."""
        self._sum(rows, losses)
        self.firings = self.firings + self._fired
        if self.spread is not None and self._spread is not None:
            self.spread = self.spread + self._spread
        self.done[rows] = True

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What `restore` takes."""
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
        self, replacement: Float[Tensor, "batch pos d_out"], rows: slice, base: Base
    ) -> Float[Tensor, "scored d_model"]:
        device, scored = self.suffix.model.device, self.corpus.scored[rows, :-1]
        edit = replacing(replacement, self.corpus.patched[rows].to(device))
        tokens, residual = self.corpus.tokens[rows].to(device), base.seen[self.suffix.entry]
        final = self.suffix.final_with(tokens, residual, self.at.replaced, edit)[:, :-1]
        return final[scored.to(final.device)]

    def _code(self, x: Float[Tensor, "batch pos d_in"], rows: slice) -> Coded:
        """The reconstructions, with L0 and L1 summed."""
        wide = torch.promote_types(x.dtype, torch.float32)
        scored = self.corpus.scored[rows]
        # Of windows that were done before, in other batches, the firings are counted.
        new = (scored & ~self.done[rows, None]).flatten().to(self.sae.device)
        x = x.to(wide).flatten(0, 1).to(self.sae.device)
        coded = code(self.sae, x, scored=new, pairs=self.spread is not None)
        if coded.pairs is not None:
            self._spread = spread_of(coded.pairs, new.view(len(scored), -1), self.sae.d_sae).cpu()
        picked = scored.flatten().to(self.sae.device)
        self._sum(rows, {"l0": coded.l0[picked], "l1": coded.l1[picked]})
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
    """Σ c² and Σ c·n over sequences of n scored tokens, c of which a latent is active on.

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
    found: Tensor = c.new_zeros(2, d_sae)
    return found.index_add_(1, where % d_sae, torch.stack([c * c, c * n]))
