"""The fast path: one clean run feeds everything, and only the blocks from the hook on run again.

One sweep over the corpus. What needs μ, the mean activation of the whole set, is finished after it:
mean ablation, which at residual hook points is a single row, and the deviations from μ, whose sums
are kept about a provisional centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.coding import Coded, code
from sae_guard.corpus import Corpus
from sae_guard.engine import head
from sae_guard.engine.ablation import SharedRow, replacing
from sae_guard.engine.place import Place
from sae_guard.metrics import tokens as formulas
from sae_guard.metrics.table import COLUMNS
from sae_guard.model import Clean, Suffix
from sae_guard.sae import SAE

_KEPT_BYTES = 2**30
"""Of residuals that wait for μ; beyond it the prefix runs a second time."""


class _Waiting(NamedTuple):
    """Sequences whose mean ablation waits for μ; their residual, if it could be kept."""

    rows: Int[Tensor, " batch"]
    residual: Tensor | None


class Sweep:
    """The sums of every sequence, batch by batch."""

    def __init__(self, suffix: Suffix, sae: SAE, corpus: Corpus, at: Place) -> None:
        self.suffix = suffix
        self.sae = sae
        self.corpus = corpus
        self.at = at
        self.device = suffix.model.device
        self.vocabulary = suffix.model.vocabulary_size
        n = len(corpus.tokens)
        self.sums = {name: torch.zeros(n, dtype=torch.float64) for name in COLUMNS}
        self.firings = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.shared: SharedRow | None = None
        self.centre: Tensor | None = None
        """About which deviations are summed until μ is known, float64 on the CPU."""
        self._from_centre = torch.zeros(n, sae.d_out, dtype=torch.float64)
        self._is_shared = torch.zeros(n, dtype=torch.bool)
        self._waiting: list[_Waiting] = []
        self._kept_bytes = 0

    def batch(self, rows: slice) -> None:
        """Everything of these sequences that does not need μ."""
        tokens, patched = self._of(self.corpus.tokens[rows]), self._of(self.corpus.patched[rows])
        scored = self.corpus.scored[rows, :-1]
        clean = self.suffix.clean(tokens, *self.at.hooks)
        x, y = clean.activations[0], clean.activations[-1]
        self.at.check_widths(x, y, tokens, self.sae)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        coded = self._code(x, scored, rows)
        y_hat = coded.reconstruction.view(*x.shape[:2], -1).to(y)
        edit = replacing(y_hat, patched)
        finals = {"patched": self.suffix.final_with(tokens, clean.residual, self.at.replaced, edit)}
        picked = self._of(scored)
        values = {
            "n_tokens": torch.ones(int(scored.sum())),
            **self._losses(clean.final, finals, tokens, picked),
            "sq_error": formulas.squared_distance(y, y_hat)[:, :-1][picked],
            "cosine": formulas.cosine(y, y_hat)[:, :-1][picked],
            "l2_ratio": formulas.l2_ratio(y, y_hat)[:, :-1][picked],
        }
        for name, tokens_values in values.items():
            self.sums[name][rows] = _per_row(tokens_values, scored)
        self._deviations(y, scored, rows)
        self._ablate_zero(rows, tokens, patched, clean, y)
        self.firings += coded.firings.cpu()  # last: a batch that did not fit is run again

    def finish(self) -> Float[Tensor, " d_out"]:
        """μ in float64, and with it what waited for it."""
        n = self.sums["n_tokens"]
        if self.centre is None or not n.sum():
            return torch.zeros(self.sae.d_out, dtype=torch.float64)
        shift = self._from_centre.sum(dim=0) / n.sum()
        about = self.sums["sq_deviation"]
        self.sums["sq_deviation"] = (
            about - 2 * (self._from_centre @ shift) + n * shift.square().sum()
        )
        mean = self.centre + shift
        self.sums["ce_mean"] = self.ablated("ce_mean", mean)
        if self.shared is not None:
            self.sums["ce_zero"] = torch.where(
                self._is_shared, self._shared_losses(torch.zeros(())), self.sums["ce_zero"]
            )
        return mean

    def ablated(
        self, name: str, value: Tensor, only: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, " sequences"]:
        """Sums of the cross-entropy of all sequences so far with ``value`` for the activation.

        Of those that are run one by one, ``only`` some, if it says which.
        """
        sums = self.sums[name].clone()
        if self.shared is not None:
            sums = torch.where(self._is_shared, self._shared_losses(value), sums)
        for rows, residual in self._waiting:
            at = slice(None) if only is None else torch.isin(rows, only)
            if len(rows[at]):
                kept = None if residual is None else residual[at]
                sums[rows[at]] = self._run_ablated(rows[at], value, kept)
        return sums

    def _of(self, value: Tensor) -> Tensor:
        return value.to(self.device)

    def _code(
        self, x: Float[Tensor, "batch pos d_in"], scored: Bool[Tensor, "batch pos-1"], rows: slice
    ) -> Coded:
        """The reconstructions, with L0 and L1 added up."""
        wide = torch.promote_types(x.dtype, torch.float32)
        counted = torch.nn.functional.pad(scored, (0, 1)).flatten().to(self.sae.device)
        coded = code(self.sae, x.to(wide).flatten(0, 1).to(self.sae.device), scored=counted)
        for name, values in (("l0", coded.l0), ("l1", coded.l1)):
            self.sums[name][rows] = _per_row(values[counted], scored)
        return coded

    def _losses(
        self,
        clean: Float[Tensor, "batch pos d_model"],
        others: Mapping[str, Float[Tensor, "batch pos d_model"]],
        tokens: Int[Tensor, "batch pos"],
        picked: Bool[Tensor, "batch pos-1"],
    ) -> dict[str, Float[Tensor, " scored"]]:
        return head.losses(
            self.suffix.unembed,
            clean[:, :-1][picked],
            {name: final[:, :-1][picked] for name, final in others.items()},
            tokens[:, 1:][picked],
            self.vocabulary,
        )

    def _deviations(
        self, y: Float[Tensor, "batch pos d_out"], scored: Bool[Tensor, "batch pos-1"], rows: slice
    ) -> None:
        picked = self._of(scored)
        kept = y[:, :-1][picked]
        if self.centre is None and len(kept):
            self.centre = kept.mean(dim=0).cpu().double()
        if self.centre is None:
            return
        difference = (kept - self.centre.to(kept)).cpu().double()
        row = scored.nonzero()[:, 0]
        self._from_centre[rows] = torch.zeros_like(self._from_centre[rows]).index_add_(
            0, row, difference
        )
        self.sums["sq_deviation"][rows] = _per_row(difference.square().sum(dim=-1), scored)

    def _ablate_zero(
        self,
        rows: slice,
        tokens: Int[Tensor, "batch pos"],
        patched: Bool[Tensor, "batch pos"],
        clean: Clean,
        y: Float[Tensor, "batch pos d_out"],
    ) -> None:
        """Note which rows share their ablations; run the others, and keep them for μ."""
        if not self._waiting and not self._is_shared.any():
            self.shared = SharedRow.find(
                self.suffix, self.at.replaced, tokens, patched, clean.residual, y
            )
        alike = torch.zeros(len(tokens), dtype=torch.bool)
        if self.shared is not None:
            alike = self.shared.matches(patched, y).cpu()
        self._is_shared[rows] = alike
        alone = (~alike).nonzero()[:, 0]
        if not len(alone):
            return
        residual = clean.residual[self._of(alone)]
        indices = torch.arange(len(self.corpus.tokens))[rows][alone]
        self.sums["ce_zero"][indices] = self._run_ablated(indices, torch.zeros(()), residual)
        self._kept_bytes += residual.nbytes
        fits = self._kept_bytes <= _KEPT_BYTES
        self._waiting.append(_Waiting(indices, residual.cpu() if fits else None))

    def _run_ablated(
        self, rows: Int[Tensor, " batch"], value: Tensor, residual: Tensor | None
    ) -> Float[Tensor, " batch"]:
        """Sums of the cross-entropy of these sequences, run one by one."""
        tokens, patched = self._of(self.corpus.tokens[rows]), self._of(self.corpus.patched[rows])
        if residual is None:
            residual = self.suffix.clean(tokens).residual
        final = self.suffix.final_with(
            tokens, self._of(residual), self.at.replaced, replacing(value, patched)
        )
        scored = self.corpus.scored[rows, :-1]
        picked = self._of(scored)
        values = head.cross_entropy(
            self.suffix.unembed, final[:, :-1][picked], tokens[:, 1:][picked], self.vocabulary
        )
        return _per_row(values, scored)

    def _shared_losses(self, value: Tensor) -> Float[Tensor, " sequences"]:
        """Sums of the cross-entropy of all sequences, as if all shared their ablations."""
        if self.shared is None:
            raise RuntimeError("no row is shared")
        final = self.shared.final(value)[:-1]
        target = self._of(self.corpus.tokens[:, 1:])
        values = head.shared_cross_entropy(self.suffix.unembed, final, target, self.vocabulary)
        return formulas.masked_sums(values, self._of(self.corpus.scored[:, :-1]))


def _per_row(
    values: Float[Tensor, " scored"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Float64 sums per sequence of the values of its scored tokens, on the CPU."""
    sums = torch.zeros(len(scored), dtype=torch.float64)
    return sums.index_add_(0, scored.nonzero()[:, 0], values.cpu().double())
