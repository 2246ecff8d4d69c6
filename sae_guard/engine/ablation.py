"""What stands beside an SAE: the losses with the activation ablated, and its deviation from μ.

An ablation replaces the activation by one value at every patched position. At a residual hook point
the suffix then no longer depends on the sequence: one row serves all that leave the same positions
unpatched.

None of it depends on the SAE: with a cache it is computed once for a hook point, and a run that was
stopped goes on from the shards it had finished.
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
from sae_guard.engine.batches import Rows, batches, in_halves, per_token
from sae_guard.engine.clean_run import CleanRun, CleanRuns
from sae_guard.engine.memory import Memory, fingerprint
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
        values = torch.zeros(self.corpus.scored[rows, :-1].shape)
        if not bool(only.any()):
            return values
        device = self.suffix.model.device
        tokens, scored = self.corpus.tokens[rows][only], self.corpus.scored[rows, :-1][only]
        edit = replacing(value, self.corpus.patched[rows][only].to(device))
        residual = residual[only.to(residual.device)].to(device)
        final = self.suffix.final_with(tokens.to(device), residual, self.hook, edit)[:, :-1]
        final, target = final[scored.to(final.device)], tokens[:, 1:][scored]
        values[only] = per_token(head.cross_entropy(self.suffix.unembedding, final, target), scored)
        return values

    def by_one(self, value: Tensor, rows: slice) -> Float[Tensor, "batch pos-1"]:
        """The cross-entropies of these windows as if all shared the row; zero if none is."""
        scored = self.corpus.scored[rows, :-1]
        if self.shared is None:
            return torch.zeros(scored.shape)
        final, target = self.shared.final(value)[:-1], self.corpus.tokens[rows, 1:]
        values = head.shared_cross_entropy(self.suffix.unembedding, final, target)
        return torch.where(scored, values.cpu().float(), 0)


_COLUMNS = tuple(name for name, column in ALL_COLUMNS.items() if column.of_hook_point)
_OF_TOKENS = tuple(name for name in _COLUMNS if ALL_COLUMNS[name].of_tokens)
_PATHS = ("each sequence", "one row")
_KEPT_BYTES = 2**30
"""Of residuals that wait for μ where no cache holds them; beyond it the prefix runs again."""


class Centre(NamedTuple):
    """μ of the whole corpus, and how far its activations lie from it."""

    mean: Float[Tensor, " d_out"]
    sq_deviation: float
    """Σ‖y − μ‖² over all scored tokens."""


class Ablated:
    """The columns of a hook point that is replaced: its ablations, and its deviation from μ.

    μ is known at the end, unless it is found before. Until then there are Σy and Σ‖y‖² of each
    sequence, in float64, and mean ablations wait.
    """

    def __init__(
        self, suffix: Suffix, corpus: Corpus, hook: str, clean_runs: CleanRuns, memory: Memory
    ) -> None:
        self.suffix = suffix
        self.corpus = corpus
        self.hook = hook
        n, shape = len(corpus.tokens), corpus.scored[:, :-1].shape
        self.sums = {name: torch.full((n,), torch.nan, dtype=torch.float64) for name in _COLUMNS}
        self.tokens = {name: torch.full(shape, torch.nan) for name in _OF_TOKENS}
        """NaN where windows were not filled in, and where μ was not known."""
        self.centre: Centre | None = None
        self.finished = False
        """Whether the columns of all windows are filled in."""
        self.path = ""
        """How ablations are run, once one was."""
        self._clean_runs = clean_runs
        self._memory = memory
        self._ablation: Ablation | None = None
        self._waiting: dict[tuple[int, int], Tensor] = {}
        remembered = memory.read(f"at/{hook}/sums")
        if remembered is not None:
            self.sums = {name: remembered[name] for name in _COLUMNS}
            self.tokens = {name: remembered[f"token.{name}"] for name in _OF_TOKENS}
            self.path, self.finished = _PATHS[int(remembered["by_one"])], True
            self.centre = Centre(remembered["mean"], float(self.sums["sq_deviation"].sum()))

    def batch(self, rows: slice, clean_run: CleanRun) -> None:
        """Compute what of some windows does not need μ."""
        if self.finished:
            return
        ablation = self._sought(rows, clean_run)
        if self._rows.known(rows):
            return
        y, residual = self._activation(clean_run), clean_run.activations[self.suffix.entry]
        alone = ablation.alone(rows, y)
        total, square = moments(y, self.corpus.scored[rows, :-1])
        ce_zero = ablation.each(torch.zeros(()), rows, alone, residual)
        values = {"alone": alone, "ce_zero": ce_zero, "total": total, "square": square}
        self._rows.set(rows, values)
        if bool(alone.any()) and not self._clean_runs.remembers:
            waiting = sum(residuals.nbytes for residuals in self._waiting.values())
            if waiting + residual.nbytes <= _KEPT_BYTES:
                self._waiting[rows.start, rows.stop] = residual.cpu()

    def finish(self, windows: Sequence[slice]) -> None:
        """Fill in all columns: what needs μ, and what no batch has done."""
        if self.finished:
            return
        for rows in windows:
            self._ensure(rows)
        mean = self._rows["total"].sum(dim=0) / self.corpus.scored.sum()
        for rows in windows:
            in_halves(lambda part: self._mean_ablate(part, mean), rows)
        self._set_columns(slice(0, len(self.corpus.tokens)), mean)
        self.centre = Centre(mean, float(self.sums["sq_deviation"].sum()))
        self.finished = True
        by_one = torch.tensor(_PATHS.index(self.path))
        tokens = {f"token.{name}": values for name, values in self.tokens.items()}
        self._memory.write(
            f"at/{self.hook}/sums", {**self.sums, **tokens, "mean": mean, "by_one": by_one}
        )

    def find_centre(self) -> None:
        """Find μ before the end, by clean runs of the whole corpus up to the hook point."""
        if self.centre is not None:
            return
        name, n = f"at/{self.hook}/mean", len(self.corpus.tokens)
        remembered = self._memory.read(name)
        if remembered is None:
            parts: list[tuple[Tensor, Tensor]] = []

            def add(rows: slice) -> None:
                y = self._clean_runs.activation(rows, self.suffix.source(self.hook), self.suffix)
                parts.append(moments(y, self.corpus.scored[rows, :-1]))

            for rows in batches(0, n, self._clean_runs.size, self._clean_runs.size):
                in_halves(add, rows)
            total, square = map(torch.cat, zip(*parts, strict=True))
            mean = total.sum(dim=0) / self.corpus.scored.sum()
            deviation = about(mean, total, square, self.corpus.scored.sum(dim=1))
            remembered = {"mean": mean, "sq_deviation": deviation}
            self._memory.write(name, remembered)
        self.centre = Centre(remembered["mean"], float(remembered["sq_deviation"].sum()))

    def fill(self, rows: slice) -> None:
        """Fill in the columns of some windows; those about μ only if it is known."""
        if self.finished:
            return
        self._ensure(rows)
        mean = self.centre.mean if self.centre else None
        if mean is not None:
            in_halves(lambda part: self._mean_ablate(part, mean), rows)
        self._set_columns(rows, mean)

    def _ensure(self, rows: slice) -> None:
        """Compute what of some windows does not need μ, unless a batch has."""
        if self._ablation is None or not self._rows.known(rows):
            in_halves(lambda part: self.batch(part, self._clean_runs.of(part)), rows)

    def _set_columns(self, rows: slice, mean: Float[Tensor, " d_out"] | None) -> None:
        assert self._ablation is not None
        scored, shared = self.corpus.scored[rows, :-1], self._ablation.by_one
        only = self._rows["alone"][rows, None]
        ce_zero = torch.where(only, self._rows["ce_zero"][rows], shared(torch.zeros(()), rows))
        ce_mean = torch.full_like(ce_zero, torch.nan)
        if mean is not None:
            ce_mean = torch.where(only, self._means["ce_mean"][rows], shared(mean, rows))
            total, square = (self._rows[name][rows] for name in ("total", "square"))
            self.sums["sq_deviation"][rows] = about(mean, total, square, scored.sum(dim=1))
        for name, values in (("ce_zero", ce_zero), ("ce_mean", torch.where(scored, ce_mean, 0))):
            self.tokens[name][rows] = values
            self.sums[name][rows] = values.double().sum(dim=1)

    def losses(self, value: Tensor, rows: slice, clean_run: CleanRun) -> Float[Tensor, " batch"]:
        """Sums of the cross-entropy of some windows with ``value`` for the activation."""
        ablation = self._sought(rows, clean_run)
        alone = ablation.alone(rows, self._activation(clean_run))
        each = ablation.each(value, rows, alone, clean_run.activations[self.suffix.entry])
        values = torch.where(alone[:, None], each, ablation.by_one(value, rows))
        return values.double().sum(dim=1)

    def deviations(
        self, centre: Tensor, rows: slice, clean_run: CleanRun
    ) -> Float[Tensor, " batch"]:
        """Σ‖y − centre‖² of some windows."""
        scored = self.corpus.scored[rows, :-1]
        return about(centre, *moments(self._activation(clean_run), scored), scored.sum(dim=1))

    def _activation(self, clean_run: CleanRun) -> Float[Tensor, "batch pos d_out"]:
        return clean_run.activations[self.suffix.source(self.hook)]

    def _mean_ablate(self, rows: slice, mean: Float[Tensor, " d_out"]) -> None:
        assert self._ablation is not None
        alone = self._rows["alone"][rows]
        if not bool(alone.any()) or self._means.known(rows):
            return
        residual = self._waiting.get((rows.start, rows.stop))
        if residual is None:
            residual = self._clean_runs.of(rows).activations[self.suffix.entry]
        self._means.set(rows, {"ce_mean": self._ablation.each(mean, rows, alone, residual)})

    def _sought(self, rows: slice, clean_run: CleanRun) -> Ablation:
        """How ablations are run, by the first windows; what is remembered is of that way."""
        if self._ablation is not None:
            return self._ablation
        name = f"at/{self.hook}/shared"
        with self._memory.lock(name):
            tensors = self._memory.read(name)
            if tensors is None:
                device = self.suffix.model.device
                tokens, patched = (
                    part[rows].to(device) for part in (self.corpus.tokens, self.corpus.patched)
                )
                residual = clean_run.activations[self.suffix.entry]
                row = SharedRow.find(
                    self.suffix, self.hook, tokens, patched, residual, self._activation(clean_run)
                )
                tensors = row.tensors if row else {}
                self._memory.write(name, tensors)
        shared = SharedRow.restored(self.suffix, self.hook, tensors) if tensors else None
        self._ablation = Ablation(self.suffix, self.corpus, self.hook, shared)
        self.path = _PATHS[shared is not None]
        by = f"at/{self.hook}/{fingerprint(tensors)}"
        self._rows = Rows(f"{by}/rows", self.corpus, self._memory)
        self._means = Rows(f"{by}/means", self.corpus, self._memory)
        return self._ablation


def moments(
    y: Float[Tensor, "batch pos d_out"], scored: Bool[Tensor, "batch pos-1"]
) -> tuple[Float[Tensor, "batch d_out"], Float[Tensor, " batch"]]:
    """Σy and Σ‖y‖² of the scored tokens of each sequence, in float64 on the CPU."""
    values = y[:, :-1][scored.to(y.device)]
    values = (values.cpu() if values.device.type == "mps" else values).double()
    row = scored.nonzero()[:, 0].to(values.device)
    total = values.new_zeros(len(y), y.shape[-1]).index_add_(0, row, values)
    square = values.new_zeros(len(y)).index_add_(0, row, values.square().sum(dim=-1))
    return total.cpu(), square.cpu()


def about(
    centre: Float[Tensor, " d_out"],
    total: Float[Tensor, "batch d_out"],
    square: Float[Tensor, " batch"],
    n: Tensor,
) -> Float[Tensor, " batch"]:
    """Σ‖y − centre‖² by the `moments` of n tokens; not below 0, which rounding could leave."""
    centre = centre.double()
    return (square - 2 * (total @ centre) + n * centre.square().sum()).clamp(min=0)
