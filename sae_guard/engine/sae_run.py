"""The runs of one SAE on the fast path: only the blocks after its hook point are run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.core.metrics import ALL_COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine.ablation import replacement_edit
from sae_guard.engine.batches import sequence_sums, token_table
from sae_guard.engine.clean_run import CleanRun
from sae_guard.engine.intervention import HookSite
from sae_guard.engine.random_error import with_random_error
from sae_guard.engine.token_metrics import COUNTS, LATENTS, RECONSTRUCTIONS, ModelRun
from sae_guard.model import Suffix
from sae_guard.sae import SAE
from sae_guard.sae.sparse_forward import SparseForward, sparse_forward


class SaeRun:
    """Per-sequence and per-token columns of one SAE, filled in batch by batch.

    Columns that depend on the hook point alone are in `HookPointColumns`.
    """

    def __init__(
        self,
        suffix: Suffix,
        sae: SAE,
        corpus: Corpus,
        site: HookSite,
        *,
        random_error: bool = False,
        spread: bool = False,
    ) -> None:
        """Prepare the columns; nothing is run yet.

        Args:
            suffix: Blocks of the model that contain the hook points, and those after them.
            sae: SAE.
            corpus: Windows.
            site: Hook points that the SAE reads and replaces.
            random_error: As in `engine.measure`.
            spread: As in `engine.measure_until`.
        """
        self.suffix = suffix
        self.sae = sae
        self.corpus = corpus
        self.site = site
        self.random_error = random_error
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
        """Sums Σc² and Σc·n over sequences of n scored tokens, c of which a latent fires on; None
        unless requested."""
        # Of the batch between `finals` and `take`.
        self._batch_firings = self.firings
        self._batch_spread = self.spread

    def finals(
        self, rows: slice, clean_run: CleanRun
    ) -> dict[ModelRun, Float[Tensor, "scored d_model"]]:
        """Return the final hidden states of the scored tokens in each run with a replacement.

        Also sums the columns that need no losses. Call `take` with the losses afterwards.

        Args:
            rows: Windows.
            clean_run: Clean run of the windows.

        Raises:
            SetupError: A hook point has no vector per token, or cannot be replaced.
            LoadError: The SAE has another width than a hook point.
        """
        tokens, scored = self.corpus.tokens[rows], self.corpus.scored[rows, :-1]
        x, y = (
            clean_run.activations[self.suffix.clean_hook(hook)]
            for hook in (self.site.read, self.site.replaced)
        )
        self.site.check_widths(x, y, tokens, self.sae)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        # [batch, pos, d_out], from the flat tokens of the SAE.
        y_hat = self._run_sae(x, rows).reconstruction.view(*x.shape[:2], -1).to(y)
        target, is_scored = tokens[:, 1:][scored], scored.to(y.device)
        self._add(rows, {name: count(target) for name, count in COUNTS.items()})
        self._add(rows, {
            name: formula(y, y_hat)[:, :-1][is_scored] for name, formula in RECONSTRUCTIONS.items()
        })  # fmt: skip
        finals: dict[ModelRun, Tensor] = {"patched run": self._final_with(y_hat, rows, clean_run)}
        if self.random_error:
            replacement = with_random_error(y, y_hat, self.corpus, range(rows.start, rows.stop))
            finals["random error run"] = self._final_with(replacement, rows, clean_run)
        return finals

    def take(self, rows: slice, losses: Mapping[str, Float[Tensor, " scored"]]) -> None:
        """Add the losses of the windows of the last call of `finals`, and mark them as done.

        Args:
            rows: Windows.
            losses: Column → value of each scored token.
        """
        self._add(rows, losses)
        self.firings = self.firings + self._batch_firings
        if self.spread is not None and self._batch_spread is not None:
            self.spread = self.spread + self._batch_spread
        self.done[rows] = True

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` takes."""
        tokens = {f"token.{name}": values for name, values in self.tokens.items()}
        spread = {} if self.spread is None else {"spread": self.spread}
        return {**self.sums, **tokens, **spread, "firings": self.firings, "done": self.done}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue the run that had these `tensors`."""
        self.sums = {name: tensors[name] for name in self.sums}
        self.tokens = {name: tensors[f"token.{name}"] for name in self.tokens}
        self.firings, self.done = tensors["firings"], tensors["done"]
        # A complete run may lack it: nothing is left to decide early then.
        self.spread = None if self.spread is None else tensors.get("spread")

    def _final_with(
        self, replacement: Float[Tensor, "batch pos d_out"], rows: slice, clean_run: CleanRun
    ) -> Float[Tensor, "scored d_model"]:
        device, scored = self.suffix.model.device, self.corpus.scored[rows, :-1]
        edit = replacement_edit(replacement, self.corpus.patched[rows].to(device))
        tokens = self.corpus.tokens[rows].to(device)
        residual = clean_run.activations[self.suffix.entry]
        final = self.suffix.final_hidden_with(tokens, residual, self.site.replaced, edit)[:, :-1]
        return final[scored.to(final.device)]

    def _run_sae(self, x: Float[Tensor, "batch pos d_in"], rows: slice) -> SparseForward:
        """Run the SAE, and sum the columns of its latents."""
        wide_dtype = torch.promote_types(x.dtype, torch.float32)
        scored = self.corpus.scored[rows]
        # Firings of windows that were done before, in other batches, are counted already.
        is_new = (scored & ~self.done[rows, None]).flatten().to(self.sae.device)  # [batch * pos]
        x = x.to(wide_dtype).flatten(0, 1).to(self.sae.device)  # [batch * pos, d_in]
        # L0 needs no term: it is always computed, with the firings.
        terms = {name: term for name, term in LATENTS.items() if name != "l0"}
        output = sparse_forward(
            self.sae, x, scored=is_new, terms=terms, pairs=self.spread is not None
        )
        if output.pairs is not None:
            is_new_token = is_new.view(len(scored), -1)
            self._batch_spread = firing_spread(output.pairs, is_new_token, self.sae.d_sae).cpu()
        is_scored = scored.flatten().to(self.sae.device)
        columns = {"l0": output.l0, **output.sums}
        self._add(rows, {name: values[is_scored] for name, values in columns.items()})
        # Not added yet: a batch that runs out of memory is run again and must not count twice.
        self._batch_firings = output.firings.cpu()
        return output

    def _add(self, rows: slice, values: Mapping[str, Float[Tensor, " scored"]]) -> None:
        """Fill in the rows of columns from the values of the scored tokens."""
        scored = self.corpus.scored[rows, :-1]
        for name, value in values.items():
            if name in self.sums:
                self.sums[name][rows] = sequence_sums(value, scored)
            if name in self.tokens:
                self.tokens[name][rows] = token_table(value, scored)


def firing_spread(
    pairs: Int[Tensor, "2 active"], scored: Bool[Tensor, "batch pos"], d_sae: int
) -> Float[Tensor, "2 d_sae"]:
    """Sum c² and c·n over sequences of n scored tokens, c of which a latent is active on.

    Args:
        pairs: Token index in the flattened batch (row 0) and latent index (row 1) of every active
            latent of the scored tokens.
        scored: Mask of the scored tokens.
        d_sae: Number of latents.

    Returns:
        Σc² (row 0) and Σc·n (row 1) of each latent, in float64 (float32 on MPS).
    """
    token, latent = pairs
    # [batch * pos]
    row_of = torch.arange(len(scored), device=pairs.device).repeat_interleave(scored.shape[1])
    # One number stands for (sequence, latent), so that equal ones can be counted.
    key, count = (row_of[token] * d_sae + latent).unique(return_counts=True)
    wide_dtype = torch.float32 if pairs.device.type == "mps" else torch.float64
    c, n = count.to(wide_dtype), scored.sum(dim=1).to(wide_dtype)[key // d_sae]  # one per key
    sums: Tensor = c.new_zeros(2, d_sae)
    return sums.index_add_(1, key % d_sae, torch.stack([c * c, c * n]))
