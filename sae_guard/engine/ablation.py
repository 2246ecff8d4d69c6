"""Ablations: the activation replaced by one value at every patched position.

At a residual hook point the suffix then no longer depends on the sequence: one row serves all that
leave the same positions unpatched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import head
from sae_guard.engine.rows import per_token
from sae_guard.model import Edit, Suffix

_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_SAME = 1e-5
"""Relative to the largest value: kernels round a row by the shape of its batch."""


def replacing(value: Tensor, patched: Bool[Tensor, "batch pos"]) -> Edit:
    """The edit that puts ``value``, which broadcasts to the activation, at patched positions."""

    def edit(activation: Tensor) -> Tensor:
        mask = patched.to(activation.device).unsqueeze(-1)
        return torch.where(mask, value.to(activation), activation)

    return edit


@dataclass(frozen=True, eq=False)
class SharedRow:
    """A sequence whose ablated run is that of all others like it."""

    suffix: Suffix
    hook: str
    tokens: Int[Tensor, "1 pos"]
    patched: Bool[Tensor, "1 pos"]
    residual: Float[Tensor, "1 pos d_model"]
    kept: Float[Tensor, "1 pos d_out"]
    """The activation, of which the unpatched positions matter."""

    @classmethod
    def find(
        cls,
        suffix: Suffix,
        hook: str,
        tokens: Int[Tensor, "batch pos"],
        patched: Bool[Tensor, "batch pos"],
        residual: Float[Tensor, "batch pos d_model"],
        activation: Float[Tensor, "batch pos d_out"],
    ) -> SharedRow | None:
        """A row like most, if the ablated run of another one is the same bit for bit.

        The other has other tokens. Only residual hook points are tried: that at others two runs
        are the same is chance.
        """
        if not hook.endswith(_RESIDUAL):
            return None
        _, pattern, count = torch.unique(patched, return_inverse=True, return_counts=True, dim=0)
        at = int((pattern == count.argmax()).nonzero()[0, 0])
        one = slice(at, at + 1)
        row = cls(suffix, hook, tokens[one], patched[one], residual[one], activation[one])
        alike = row.matches(patched, activation) & (tokens != tokens[one]).any(dim=1)
        if not bool(alike.any()):
            return None
        pair = torch.tensor([at, int(alike.nonzero()[0, 0])], device=tokens.device)
        edit = replacing(activation.new_zeros(()), patched[pair])
        final = suffix.final_with(tokens[pair], residual[pair], hook, edit)
        return row if torch.equal(final[0], final[1]) else None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What `restored` takes."""
        return {name: getattr(self, name) for name in ("tokens", "patched", "residual", "kept")}

    @classmethod
    def restored(cls, suffix: Suffix, hook: str, tensors: Mapping[str, Tensor]) -> SharedRow:
        """The row of these tensors."""
        device = suffix.model.device
        return cls(suffix, hook, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def matches(
        self, patched: Bool[Tensor, "batch pos"], activation: Float[Tensor, "batch pos d_out"]
    ) -> Bool[Tensor, " batch"]:
        """Which rows are like this one once they are ablated."""
        difference = (activation - self.kept).abs().amax(dim=-1)
        largest = self.kept.abs().amax(dim=-1)
        same = patched | (difference <= _SAME * largest)
        return same.all(dim=1) & (patched == self.patched).all(dim=1)

    def final(self, value: Tensor) -> Float[Tensor, "pos d_model"]:
        """The final hidden states of the row with ``value`` in place of the activation."""
        edit = replacing(value, self.patched)
        return self.suffix.final_with(self.tokens, self.residual, self.hook, edit)[0]


@dataclass(frozen=True, eq=False)
class Ablation:
    """Runs of a corpus with one value for the activation at a hook point."""

    suffix: Suffix
    corpus: Corpus
    hook: str
    shared: SharedRow | None

    def alone(
        self, rows: slice, activation: Float[Tensor, "batch pos d_out"]
    ) -> Bool[Tensor, " batch"]:
        """Which windows have to be run one by one, by their clean activations; on the CPU."""
        patched = self.corpus.patched[rows]
        if self.shared is None:
            return torch.ones(len(patched), dtype=torch.bool)
        return ~self.shared.matches(patched.to(activation.device), activation).cpu()

    def each(
        self,
        value: Tensor,
        rows: slice,
        only: Bool[Tensor, " batch"],
        residual: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "batch pos-1"]:
        """The cross-entropies of ``only`` these windows, run one by one; zero elsewhere.

        Args:
            value: Broadcasts to the activation.
            rows: The windows.
            only: Which of them.
            residual: What goes into the first block of the suffix, of all of them.
        """
        found = torch.zeros(self.corpus.scored[rows, :-1].shape)
        if not bool(only.any()):
            return found
        device = self.suffix.model.device
        tokens, scored = self.corpus.tokens[rows][only], self.corpus.scored[rows, :-1][only]
        edit = replacing(value, self.corpus.patched[rows][only].to(device))
        residual = residual[only.to(residual.device)].to(device)
        final = self.suffix.final_with(tokens.to(device), residual, self.hook, edit)[:, :-1]
        final, target = final[scored.to(final.device)], tokens[:, 1:][scored]
        found[only] = per_token(head.cross_entropy(self.suffix.unembedding, final, target), scored)
        return found

    def by_one(self, value: Tensor, rows: slice) -> Float[Tensor, "batch pos-1"]:
        """The cross-entropies of these windows as if all shared the row; zero if none is."""
        scored = self.corpus.scored[rows, :-1]
        if self.shared is None:
            return torch.zeros(scored.shape)
        final, target = self.shared.final(value)[:-1], self.corpus.tokens[rows, 1:]
        values = head.shared_cross_entropy(self.suffix.unembedding, final, target)
        return torch.where(scored, values.cpu().float(), 0)
