"""Columns of a hook point: the losses with its activation ablated, and its deviation from μ.

An ablation replaces the activation by one value at every patched position. At a residual hook point
the rest of the model then no longer depends on the sequence: one run serves all sequences that
leave the same positions unpatched.

These columns do not depend on the SAE. With a cache they are computed once for a hook point, and a
measurement that was interrupted continues after the last finished shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_guard.core.metrics import ALL_COLUMNS
from sae_guard.corpus import Corpus
from sae_guard.engine import head
from sae_guard.engine.batches import ShardedColumns, batches, halve_on_oom, token_table
from sae_guard.engine.clean_run import CleanRun, CleanRuns
from sae_guard.engine.memory import Memory, fingerprint
from sae_guard.model import Edit, Suffix

_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
# Relative to the largest activation: kernels round a row differently in batches of another shape.
_RELATIVE_TOLERANCE = 1e-5


def replacement_edit(value: Tensor, patched: Bool[Tensor, "batch pos"]) -> Edit:
    """Return the edit that replaces the activation at the patched positions by ``value``.

    Args:
        value: Broadcasts to the activation [batch, pos, d_out].
        patched: Positions that are replaced.
    """

    def edit(activation: Tensor) -> Tensor:
        mask = patched.to(activation.device).unsqueeze(-1)  # [batch, pos, 1]
        # Also to its dtype: a model in half precision goes on in half precision.
        return torch.where(mask, value.to(activation), activation)

    return edit


@dataclass(frozen=True, eq=False)
class SharedSequence:
    """A sequence whose ablated run gives the final hidden states of many other sequences too."""

    suffix: Suffix
    hook: str
    tokens: Int[Tensor, "1 pos"]
    patched: Bool[Tensor, "1 pos"]
    residual: Float[Tensor, "1 pos d_model"]
    """Residual stream that enters the suffix, from the clean run."""
    activation: Float[Tensor, "1 pos d_out"]
    """Clean activation at the hook point; only its unpatched positions matter."""

    @classmethod
    def find(
        cls,
        suffix: Suffix,
        hook: str,
        tokens: Int[Tensor, "batch pos"],
        patched: Bool[Tensor, "batch pos"],
        residual: Float[Tensor, "batch pos d_model"],
        activation: Float[Tensor, "batch pos d_out"],
    ) -> SharedSequence | None:
        """Return a sequence with the most common mask, if ablated runs prove to be shareable.

        The proof: the ablated run of a matching sequence with other tokens is the same bit for
        bit. Only residual hook points are tried, since equal runs at others are a coincidence.
        """
        if not hook.endswith(_RESIDUAL):
            return None
        # mask_of_row [batch]: which of the distinct masks each sequence has; count: how many have
        # it.
        _, mask_of_row, count = torch.unique(
            patched, return_inverse=True, return_counts=True, dim=0
        )
        index = int((mask_of_row == count.argmax()).nonzero()[0, 0])
        row = slice(index, index + 1)
        shared = cls(suffix, hook, tokens[row], patched[row], residual[row], activation[row])
        # A sequence with the same tokens has the same run at any hook point, and proves nothing.
        is_match = shared.matches(patched, activation) & (tokens != tokens[row]).any(dim=1)
        if not bool(is_match.any()):
            return None
        pair = torch.tensor([index, int(is_match.nonzero()[0, 0])], device=tokens.device)
        edit = replacement_edit(activation.new_zeros(()), patched[pair])
        # In one batch, so that both rows go through the same kernels and must agree in every bit.
        final = suffix.final_hidden_with(tokens[pair], residual[pair], hook, edit)
        return shared if torch.equal(final[0], final[1]) else None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `from_tensors` takes."""
        names = ("tokens", "patched", "residual", "activation")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_tensors(
        cls, suffix: Suffix, hook: str, tensors: Mapping[str, Tensor]
    ) -> SharedSequence:
        """Return the sequence with these `tensors`, on the device of the model."""
        device = suffix.model.device
        return cls(suffix, hook, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def matches(
        self, patched: Bool[Tensor, "batch pos"], activation: Float[Tensor, "batch pos d_out"]
    ) -> Bool[Tensor, " batch"]:
        """Mark the sequences that equal this one after ablation: same mask, same unpatched rest."""
        difference = (activation - self.activation).abs().amax(dim=-1)  # [batch, pos]
        largest = self.activation.abs().amax(dim=-1)  # [1, pos]
        is_same = patched | (difference <= _RELATIVE_TOLERANCE * largest)
        return is_same.all(dim=1) & (patched == self.patched).all(dim=1)

    def final(self, value: Tensor) -> Float[Tensor, "pos d_model"]:
        """Return the final hidden states with ``value`` in place of the activation."""
        edit = replacement_edit(value, self.patched)
        return self.suffix.final_hidden_with(self.tokens, self.residual, self.hook, edit)[0]


@dataclass(frozen=True, eq=False)
class Ablation:
    """Runs of a corpus in which one value replaces the activation at a hook point."""

    suffix: Suffix
    corpus: Corpus
    hook: str
    shared: SharedSequence | None
    """Sequence that stands for all that match it; None if every window needs its own run."""

    def needs_own_run(
        self, rows: slice, activation: Float[Tensor, "batch pos d_out"]
    ) -> Bool[Tensor, " batch"]:
        """Mark the windows that the shared sequence does not stand for, on the CPU.

        Args:
            rows: Windows of the corpus.
            activation: Their clean activations at the hook point.
        """
        patched = self.corpus.patched[rows]
        if self.shared is None:
            return torch.ones(len(patched), dtype=torch.bool)
        return ~self.shared.matches(patched.to(activation.device), activation).cpu()

    def own_losses(
        self,
        value: Tensor,
        rows: slice,
        selected: Bool[Tensor, " batch"],
        residual: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "batch pos-1"]:
        """Return the cross-entropies of the selected windows, each run by itself; zero elsewhere.

        Args:
            value: Broadcasts to the activation.
            rows: Windows of the corpus.
            selected: Windows that are run.
            residual: Residual stream that enters the suffix, of all windows.
        """
        losses = torch.zeros(self.corpus.scored[rows, :-1].shape)  # [batch, pos-1]
        if not bool(selected.any()):
            return losses
        device = self.suffix.model.device
        tokens, scored = self.corpus.tokens[rows][selected], self.corpus.scored[rows, :-1][selected]
        edit = replacement_edit(value, self.corpus.patched[rows][selected].to(device))
        residual = residual[selected.to(residual.device)].to(device)
        final = self.suffix.final_hidden_with(tokens.to(device), residual, self.hook, edit)[:, :-1]
        # [scored, d_model], [scored]
        final, target = final[scored.to(final.device)], tokens[:, 1:][scored]
        selected_losses = head.cross_entropy(self.suffix.unembedding, final, target)
        losses[selected] = token_table(selected_losses, scored)
        return losses

    def shared_losses(self, value: Tensor, rows: slice) -> Float[Tensor, "batch pos-1"]:
        """Return the cross-entropies of windows as if all matched the shared sequence.

        Zero if there is no shared sequence.
        """
        scored = self.corpus.scored[rows, :-1]
        if self.shared is None:
            return torch.zeros(scored.shape)
        # [pos-1, d_model], [batch, pos-1]
        final, target = self.shared.final(value)[:-1], self.corpus.tokens[rows, 1:]
        values = head.shared_cross_entropy(self.suffix.unembedding, final, target)
        return torch.where(scored, values.cpu().float(), 0)


_COLUMNS = tuple(name for name, column in ALL_COLUMNS.items() if column.of_hook_point)
_OF_TOKENS = tuple(name for name in _COLUMNS if ALL_COLUMNS[name].of_tokens)
_PATHS = ("each sequence", "one row")
# Residuals that wait for μ without a cache; for further ones the clean run is repeated.
_MAX_PENDING_BYTES = 2**30


class Centre(NamedTuple):
    """Mean activation μ of the scored tokens of the corpus, and the deviation from it."""

    mean: Float[Tensor, " d_out"]
    """μ, float64, on the CPU."""
    sq_deviation: float
    """Σ‖y − μ‖² over all scored tokens."""


class HookPointColumns:
    """Columns of a hook point that is replaced: its ablated losses, and its deviation from μ.

    Batches add Σy and Σ‖y‖² of each sequence, in float64, and the zero-ablated losses. The columns
    that use μ follow when μ is known: after all batches, or earlier by `compute_centre`.
    """

    def __init__(
        self, suffix: Suffix, corpus: Corpus, hook: str, clean_runs: CleanRuns, memory: Memory
    ) -> None:
        self.suffix = suffix
        self.corpus = corpus
        self.hook = hook
        n, shape = len(corpus.tokens), corpus.scored[:, :-1].shape
        # NaN and not 0: a row that nobody filled in must not pass for a small loss.
        self.sums = {name: torch.full((n,), torch.nan, dtype=torch.float64) for name in _COLUMNS}
        self.tokens = {name: torch.full(shape, torch.nan) for name in _OF_TOKENS}
        """Token columns; NaN where windows are not filled in, or μ was not known."""
        self.centre: Centre | None = None
        self.finished = False
        """True once the columns of all windows are filled in."""
        self.path = ""
        """Entry of `_PATHS`: how ablations are run; empty before the first one."""
        self._clean_runs = clean_runs
        self._memory = memory
        self._ablation: Ablation | None = None
        self._pending_residuals: dict[tuple[int, int], Tensor] = {}
        # `finish` writes it last, so where it is, the columns of all windows are complete.
        stored = memory.read(f"at/{hook}/sums")
        if stored is not None:
            self.sums = {name: stored[name] for name in _COLUMNS}
            self.tokens = {name: stored[f"token.{name}"] for name in _OF_TOKENS}
            self.path, self.finished = _PATHS[int(stored["is_shared"])], True
            self.centre = Centre(stored["mean"], float(self.sums["sq_deviation"].sum()))

    def batch(self, rows: slice, clean_run: CleanRun) -> None:
        """Compute the numbers of some windows that do not need μ."""
        if self.finished:
            return
        # Before `self._rows` is used: the name of its shards depends on the shared sequence.
        ablation = self._ablation_for(rows, clean_run)
        if self._rows.has(rows):
            return
        y, residual = self._activation(clean_run), clean_run.activations[self.suffix.entry]
        own_run = ablation.needs_own_run(rows, y)
        total, square = moments(y, self.corpus.scored[rows, :-1])
        ce_zero = ablation.own_losses(torch.zeros(()), rows, own_run, residual)
        values = {"own_run": own_run, "ce_zero": ce_zero, "total": total, "square": square}
        self._rows.set(rows, values)
        # With a cache, mean ablations read the residual from it again.
        if bool(own_run.any()) and not self._clean_runs.uses_cache:
            pending = sum(residuals.nbytes for residuals in self._pending_residuals.values())
            if pending + residual.nbytes <= _MAX_PENDING_BYTES:
                self._pending_residuals[rows.start, rows.stop] = residual.cpu()

    def finish(self, windows: Sequence[slice]) -> None:
        """Fill in all columns of all windows.

        Args:
            windows: Batches of the whole corpus; those that were not run are run now.
        """
        if self.finished:
            return
        for rows in windows:
            self._ensure_batch(rows)
        # The last position is never scored, so both count the same tokens.
        mean = self._rows["total"].sum(dim=0) / self.corpus.scored.sum()
        for rows in windows:
            halve_on_oom(lambda part: self._mean_ablate(part, mean), rows)
        self._set_columns(slice(0, len(self.corpus.tokens)), mean)
        self.centre = Centre(mean, float(self.sums["sq_deviation"].sum()))
        self.finished = True
        is_shared = torch.tensor(_PATHS.index(self.path))
        tokens = {f"token.{name}": values for name, values in self.tokens.items()}
        self._memory.write(
            f"at/{self.hook}/sums", {**self.sums, **tokens, "mean": mean, "is_shared": is_shared}
        )

    def compute_centre(self) -> None:
        """Compute μ before the batches, by clean runs of the whole corpus up to the hook point."""
        if self.centre is not None:
            return
        name, n = f"at/{self.hook}/mean", len(self.corpus.tokens)
        stored = self._memory.read(name)
        if stored is None:
            parts: list[tuple[Tensor, Tensor]] = []
            clean_hook = self.suffix.clean_hook(self.hook)

            def add_moments(rows: slice) -> None:
                y = self._clean_runs.activation(rows, clean_hook, self.suffix)
                parts.append(moments(y, self.corpus.scored[rows, :-1]))

            # Shard by shard: `CleanRuns.activation` reads complete shards.
            for rows in batches(0, n, self._clean_runs.size, self._clean_runs.size):
                halve_on_oom(add_moments, rows)
            # [n_sequences, d_out], [n_sequences]
            total, square = map(torch.cat, zip(*parts, strict=True))
            mean = total.sum(dim=0) / self.corpus.scored.sum()
            deviation = deviations_from(mean, total, square, self.corpus.scored.sum(dim=1))
            stored = {"mean": mean, "sq_deviation": deviation}
            self._memory.write(name, stored)
        self.centre = Centre(stored["mean"], float(stored["sq_deviation"].sum()))

    def fill(self, rows: slice) -> None:
        """Fill in the columns of a batch; those that use μ only if μ is known."""
        if self.finished:
            return
        self._ensure_batch(rows)
        mean = self.centre.mean if self.centre else None
        if mean is not None:
            halve_on_oom(lambda part: self._mean_ablate(part, mean), rows)
        self._set_columns(rows, mean)

    def _ensure_batch(self, rows: slice) -> None:
        """Run `batch` unless it was run for these windows."""
        if self._ablation is None or not self._rows.has(rows):
            halve_on_oom(lambda part: self.batch(part, self._clean_runs.for_rows(part)), rows)

    def _set_columns(self, rows: slice, mean: Float[Tensor, " d_out"] | None) -> None:
        assert self._ablation is not None
        scored, shared_losses = self.corpus.scored[rows, :-1], self._ablation.shared_losses
        own_run = self._rows["own_run"][rows, None]  # [batch, 1]
        ce_zero = torch.where(
            own_run, self._rows["ce_zero"][rows], shared_losses(torch.zeros(()), rows)
        )
        ce_mean = torch.full_like(ce_zero, torch.nan)
        if mean is not None:
            ce_mean = torch.where(
                own_run, self._mean_rows["ce_mean"][rows], shared_losses(mean, rows)
            )
            total, square = (self._rows[name][rows] for name in ("total", "square"))
            n_scored = scored.sum(dim=1)
            self.sums["sq_deviation"][rows] = deviations_from(mean, total, square, n_scored)
        # Where μ is not known, scored tokens are NaN; the others are 0, as in every column.
        for name, values in (("ce_zero", ce_zero), ("ce_mean", torch.where(scored, ce_mean, 0))):
            self.tokens[name][rows] = values
            self.sums[name][rows] = values.double().sum(dim=1)

    def losses(self, value: Tensor, rows: slice, clean_run: CleanRun) -> Float[Tensor, " batch"]:
        """Return Σ cross-entropy of each window with ``value`` in place of the activation."""
        ablation = self._ablation_for(rows, clean_run)
        own_run = ablation.needs_own_run(rows, self._activation(clean_run))
        residual = clean_run.activations[self.suffix.entry]
        own_losses = ablation.own_losses(value, rows, own_run, residual)
        losses = torch.where(own_run[:, None], own_losses, ablation.shared_losses(value, rows))
        return losses.double().sum(dim=1)

    def deviations(
        self, centre: Tensor, rows: slice, clean_run: CleanRun
    ) -> Float[Tensor, " batch"]:
        """Return Σ‖y − centre‖² of each window."""
        scored = self.corpus.scored[rows, :-1]
        total, square = moments(self._activation(clean_run), scored)
        return deviations_from(centre, total, square, scored.sum(dim=1))

    def _activation(self, clean_run: CleanRun) -> Float[Tensor, "batch pos d_out"]:
        return clean_run.activations[self.suffix.clean_hook(self.hook)]

    def _mean_ablate(self, rows: slice, mean: Float[Tensor, " d_out"]) -> None:
        assert self._ablation is not None
        own_run = self._rows["own_run"][rows]
        if not bool(own_run.any()) or self._mean_rows.has(rows):
            return
        residual = self._pending_residuals.get((rows.start, rows.stop))
        if residual is None:
            residual = self._clean_runs.for_rows(rows).activations[self.suffix.entry]
        ce_mean = self._ablation.own_losses(mean, rows, own_run, residual)
        self._mean_rows.set(rows, {"ce_mean": ce_mean})

    def _ablation_for(self, rows: slice, clean_run: CleanRun) -> Ablation:
        """Return the ablation, with a shared sequence if the first windows have one.

        Args:
            rows: Windows to look for a shared sequence in, if neither this process nor the cache
                has decided whether there is one.
            clean_run: Clean run of the windows.
        """
        if self._ablation is not None:
            return self._ablation
        name = f"at/{self.hook}/shared"
        # One process chooses; the others take its sequence, so that all of them fill the same
        # shards.
        with self._memory.lock(name):
            tensors = self._memory.read(name)
            if tensors is None:
                device = self.suffix.model.device
                tokens, patched = (
                    part[rows].to(device) for part in (self.corpus.tokens, self.corpus.patched)
                )
                residual = clean_run.activations[self.suffix.entry]
                sequence = SharedSequence.find(
                    self.suffix, self.hook, tokens, patched, residual, self._activation(clean_run)
                )
                # No tensors: it is decided that no sequence can be shared. None: nobody has tried
                # yet.
                tensors = sequence.tensors if sequence else {}
                self._memory.write(name, tensors)
        shared = SharedSequence.from_tensors(self.suffix, self.hook, tensors) if tensors else None
        self._ablation = Ablation(self.suffix, self.corpus, self.hook, shared)
        self.path = _PATHS[shared is not None]
        # Numbers computed with another shared sequence have other names in the cache.
        prefix = f"at/{self.hook}/{fingerprint(tensors)}"
        self._rows = ShardedColumns(f"{prefix}/rows", self.corpus, self._memory)
        self._mean_rows = ShardedColumns(f"{prefix}/means", self.corpus, self._memory)
        return self._ablation


def moments(
    y: Float[Tensor, "batch pos d_out"], scored: Bool[Tensor, "batch pos-1"]
) -> tuple[Float[Tensor, "batch d_out"], Float[Tensor, " batch"]]:
    """Return Σy and Σ‖y‖² over the scored tokens of each sequence, in float64 on the CPU."""
    values = y[:, :-1][scored.to(y.device)]  # [scored, d_out]
    # MPS has no float64.
    values = (values.cpu() if values.device.type == "mps" else values).double()
    row = scored.nonzero()[:, 0].to(values.device)  # [scored], window of each token
    total = values.new_zeros(len(y), y.shape[-1]).index_add_(0, row, values)
    square = values.new_zeros(len(y)).index_add_(0, row, values.square().sum(dim=-1))
    return total.cpu(), square.cpu()


def deviations_from(
    centre: Float[Tensor, " d_out"],
    total: Float[Tensor, "batch d_out"],
    square: Float[Tensor, " batch"],
    n: Tensor,
) -> Float[Tensor, " batch"]:
    """Return Σ‖y − centre‖² = Σ‖y‖² − 2·Σy·centre + n·‖centre‖² of each sequence.

    Args:
        centre: Vector that deviations are from.
        total: Σy, from `moments`.
        square: Σ‖y‖², from `moments`.
        n: Number of scored tokens of each sequence.
    """
    # The three terms nearly cancel where ‖μ‖ is large, which float32 would not survive.
    centre = centre.double()
    # Rounding could leave a sum slightly below 0.
    return (square - 2 * (total @ centre) + n * centre.square().sum()).clamp(min=0)
