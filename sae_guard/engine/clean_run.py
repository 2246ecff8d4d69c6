"""What the SAEs measured on the same windows have in common: from the cache, or one clean run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import head
from sae_guard.engine.batches import batches, in_halves, shard_size
from sae_guard.engine.memory import Memory
from sae_guard.model import FINAL, LanguageModel, Suffix, Unembedding

_HEAD = "head"
_Shard = dict[str, dict[str, Tensor]]
"""Hook point, or `_HEAD`, → its tensors."""


@dataclass(frozen=True, eq=False)
class CleanRun:
    """Of some windows: what their clean run left at hook points, and at its end."""

    activations: Mapping[str, Float[Tensor, "batch pos width"]]
    """By their hook points."""
    predictions: head.Clean
    """Of the scored tokens."""


class CleanRuns:
    """The clean runs of a corpus.

    With a cache, what is missing there is computed a shard at a time, by one process, and kept;
    without, windows are run when they are asked for, and forgotten.
    """

    def __init__(
        self,
        model: LanguageModel,
        unembedding: Unembedding,
        corpus: Corpus,
        memory: Memory,
        names: Iterable[str],
        also: Iterable[str] = (),
    ) -> None:
        self.model = model
        self.unembedding = unembedding
        self.corpus = corpus
        self.names = tuple(dict.fromkeys(names))
        self.size = shard_size(corpus.tokens.shape[1])
        self.came_from: Counter[str] = Counter()
        """How many shards were read from the cache, and how many were run."""
        self.trouble = ""
        """Why there is no room in the cache."""
        self._memory = memory
        self._also = tuple(name for name in dict.fromkeys(also) if name not in self.names)
        counts = corpus.scored.sum(dim=1)
        self._scored_before = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self._last: tuple[slice, _Shard] | None = None

    def of(self, rows: slice) -> CleanRun:
        """Return the clean run of windows, all in one shard or some whole ones.

        Its tensors are on the model's device.
        """
        if self.remembers:
            parts = [self._part(shard, rows) for shard in self._shards(rows)]
            return self._clean_run({
                name: {key: torch.cat([part[name][key] for part in parts]) for key in tensors}
                for name, tensors in parts[0].items()
            })  # fmt: skip
        self.came_from["run"] += 1
        return self._clean_run(self._run(rows, self.names, summary=False))

    def activation(
        self, rows: slice, name: str, suffix: Suffix
    ) -> Float[Tensor, "batch pos width"]:
        """The activation at one hook point of the windows of a shard; later blocks are not run."""
        shard = self._read([name], rows.start // self.size)
        if name in shard:
            return shard[name]["activation"]
        return suffix.activation_at(self.corpus.tokens[rows].to(self.model.device), name).flatten(2)

    @property
    def path(self) -> str:
        """Where the clean runs came from."""
        trouble = self.trouble or self._memory.trouble
        if trouble:
            return f"run, and not remembered: {trouble}"
        if not self.came_from:
            return "measured before"
        if not self.came_from["run"]:
            return "remembered"
        return "run, and remembered" if self._memory.entry else "run"

    @property
    def remembers(self) -> bool:
        """Whether what is run is kept."""
        return self._memory.entry is not None and self._fits

    def _clean_run(self, shard: _Shard) -> CleanRun:
        device = self.model.device
        last = {key: tensor.to(device) for key, tensor in shard[_HEAD].items()}
        return CleanRun(
            {name: shard[name]["activation"].to(device) for name in self.names},
            head.Final(**last) if "hidden" in last else head.Summary(**last),
        )

    def _shards(self, rows: slice) -> Iterator[tuple[slice, _Shard]]:
        for index in range(rows.start // self.size, -(-rows.stop // self.size)):
            start = index * self.size
            windows = slice(start, min(start + self.size, len(self.corpus.tokens)))
            if self._last is None or self._last[0] != windows:
                self._last = (windows, self._shard(index, windows, rows.stop - rows.start))
            yield self._last

    def _part(self, windows_and_shard: tuple[slice, _Shard], rows: slice) -> _Shard:
        """Of a shard: these windows, as far as they are in it."""
        windows, shard = windows_and_shard
        start, stop = max(rows.start, windows.start), min(rows.stop, windows.stop)
        at = slice(start - windows.start, stop - windows.start)
        before = self._scored_before
        scored = slice(*(int(before[row] - before[windows.start]) for row in (start, stop)))
        return {
            name: {key: tensor[scored if name == _HEAD else at] for key, tensor in tensors.items()}
            for name, tensors in shard.items()
        }

    def _shard(self, index: int, windows: slice, at_once: int) -> _Shard:
        """From the cache; what is missing there is run by one process, ``at_once`` windows each."""
        names = [*self.names, _HEAD]
        shard = self._read(names, index)
        if len(shard) == len(names):
            self.came_from["cache"] += 1
            return shard
        with self._memory.lock(f"clean/{index:06}"):
            shard |= self._read([name for name in names if name not in shard], index)
            missing = [name for name in names if name not in shard]
            if missing:
                self.came_from["run"] += 1
                shard |= self._fill(index, windows, missing, at_once)
        return shard

    def _read(self, names: Iterable[str], index: int) -> _Shard:
        remembered = {name: self._memory.read(_file(name, index)) for name in names}
        return {name: dict(tensors) for name, tensors in remembered.items() if tensors is not None}

    def _fill(self, index: int, windows: slice, missing: list[str], at_once: int) -> _Shard:
        """Run a shard; keep what of it is missing, and what others will ask for."""
        also = [name for name in self._also if not self._memory.has(_file(name, index))]
        names = [*missing, *also]
        hooks = [name for name in names if name != _HEAD]
        parts: list[_Shard] = []

        def run(rows: slice) -> None:
            shard = self._run(rows, hooks, summary=_HEAD in names)
            parts.append({name: {k: t.cpu() for k, t in shard[name].items()} for name in names})

        for rows in batches(windows.start, windows.stop, at_once, self.size):
            in_halves(run, rows)
        shard = {
            name: {key: torch.cat([part[name][key] for part in parts]) for key in parts[0][name]}
            for name in names
        }
        for name, tensors in shard.items():
            self._memory.write(_file(name, index), tensors)
        return {name: shard[name] for name in missing}

    def _run(self, rows: slice, hooks: Iterable[str], *, summary: bool) -> _Shard:
        tokens = self.corpus.tokens[rows].to(self.model.device)
        activations = self.model.seen(tokens, *dict.fromkeys([FINAL, *hooks]))
        shard = {name: {"activation": activations[name].flatten(2)} for name in hooks}
        scored = self.corpus.scored[rows, :-1]
        final = activations[FINAL][:, :-1]
        final = final[scored.to(final.device)]
        if summary and self._summarises:
            target = self.corpus.tokens[rows, 1:][scored]
            clean = head.summarise(self.unembedding, final, target)._asdict()
        else:
            clean = head.Final(final)._asdict()
        return {**shard, _HEAD: clean}

    @property
    def _summarises(self) -> bool:
        """Say whether its summary is remembered, not its final hidden states."""
        return self.unembedding.linear and head.summary_suffices()

    @cached_property
    def _fits(self) -> bool:
        """Whether there is room in the cache, first of all for what this measurement needs."""
        needed, more = (self._missing(names) for names in ([*self.names, _HEAD], self._also))
        if more and self._memory.reserve(needed + more):
            return True
        self._also = ()
        if self._memory.reserve(needed):
            return True
        self.trouble = f"{needed / 2**30:.1f} GiB are more than it may hold"
        return False

    def _missing(self, names: Sequence[str]) -> int:
        """Bytes of what the cache does not hold."""
        n, context = self.corpus.tokens.shape
        shards = range(-(-n // self.size))
        missing = {
            name: sum(not self._memory.has(_file(name, i)) for i in shards) for name in names
        }
        hooks = [name for name, count in missing.items() if count and name != _HEAD]
        activations = self.model.seen(torch.zeros(1, 2, dtype=torch.int64), FINAL, *hooks)
        each = {name: activations[name][0, 0].nbytes for name in hooks}
        head_of_token = activations[FINAL][0, 0].nbytes
        if self._summarises:
            head_of_token = self.unembedding.weight[0].nbytes + 16
        each[_HEAD] = head_of_token
        tokens = self.size * context
        return sum(count * each[name] * tokens for name, count in missing.items() if count)


def _file(name: str, index: int) -> str:
    return f"clean/{name}/{index:06}"
