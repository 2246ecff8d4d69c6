"""Clean runs, which all SAEs measured on the same windows share: from the cache, or run once."""

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
from sae_guard.engine.batches import batches, halve_on_oom, shard_size
from sae_guard.engine.memory import Memory
from sae_guard.model import FINAL_HIDDEN, LanguageModel, Suffix

_HEAD = "head"  # stands for the clean predictions beside the hook points
_SUMMARY_BYTES = 3 * 8  # offset, cross-entropy and entropy of `CleanSummary`, each a float64
_Shard = dict[str, dict[str, Tensor]]
"""Hook point, or `_HEAD`, → tensors by name, for all windows of a shard."""


@dataclass(frozen=True, eq=False)
class CleanRun:
    """Activations and predictions of some windows in a clean run."""

    activations: Mapping[str, Float[Tensor, "batch pos width"]]
    """Hook point → activations of all tokens."""
    predictions: head.Clean
    """Predictions at the scored tokens."""


class CleanRuns:
    """Clean runs of the windows of a corpus.

    With a cache, missing shards are run by one process each and stored. Without one, windows are
    run whenever they are requested.
    """

    def __init__(
        self,
        model: LanguageModel,
        corpus: Corpus,
        memory: Memory,
        hooks: Iterable[str],
        later_hooks: Iterable[str] = (),
    ) -> None:
        """Prepare the runs; nothing is run yet.

        Args:
            model: Language model.
            corpus: Windows.
            memory: Cache entry of the model and corpus.
            hooks: Hook points whose activations are returned.
            later_hooks: Further hook points that a run stores in the cache, if there is room.
        """
        self.model = model
        self.corpus = corpus
        self.hooks = tuple(dict.fromkeys(hooks))
        self.size = shard_size(corpus.tokens.shape[1])
        self.shard_counts: Counter[str] = Counter()
        """Number of shards that were read from the "cache", and that were "run"."""
        self.no_room_reason = ""
        """Reason why the clean runs do not fit into the cache; empty if they do."""
        self._memory = memory
        self._later_hooks = tuple(
            hook for hook in dict.fromkeys(later_hooks) if hook not in self.hooks
        )
        counts = corpus.scored.sum(dim=1)
        # [n_sequences + 1]: number of scored tokens before each window.
        self._scored_before = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        # Batches that are smaller than a shard read the same shard several times in a row.
        self._last_shard: tuple[slice, _Shard] | None = None

    def for_rows(self, rows: slice) -> CleanRun:
        """Return the clean run of some windows, on the device of the model.

        Args:
            rows: Windows of one shard, or of complete shards.
        """
        if self.uses_cache:
            parts = [self._part(shard, rows) for shard in self._shards(rows)]
            return self._clean_run({
                name: {key: torch.cat([part[name][key] for part in parts]) for key in tensors}
                for name, tensors in parts[0].items()
            })  # fmt: skip
        self.shard_counts["run"] += 1
        # A summary costs two unembeddings, which pay only where it is read again.
        return self._clean_run(self._run(rows, self.hooks, summary=False))

    def activation(
        self, rows: slice, hook: str, suffix: Suffix
    ) -> Float[Tensor, "batch pos width"]:
        """Return the activations at one hook point; the blocks after it are not run.

        Args:
            rows: Windows of one complete shard.
            hook: Hook point.
            suffix: Any suffix of the model.
        """
        shard = self._read([hook], rows.start // self.size)
        if hook in shard:
            return shard[hook]["activation"]
        return suffix.activation_at(self.corpus.tokens[rows].to(self.model.device), hook).flatten(2)

    @property
    def path(self) -> str:
        """Say in words where the clean runs came from, for `Provenance.paths`."""
        reason = self.no_room_reason or self._memory.failure
        if reason:
            return f"run, and not remembered: {reason}"
        if not self.shard_counts:
            return "measured before"
        if not self.shard_counts["run"]:
            return "remembered"
        return "run, and remembered" if self._memory.entry else "run"

    @property
    def uses_cache(self) -> bool:
        """True if there is a cache, and room in it."""
        return self._memory.entry is not None and self._has_room

    def _clean_run(self, shard: _Shard) -> CleanRun:
        device = self.model.device
        predictions = {key: tensor.to(device) for key, tensor in shard[_HEAD].items()}
        is_final = "hidden" in predictions
        return CleanRun(
            {hook: shard[hook]["activation"].to(device) for hook in self.hooks},
            head.FinalStates(**predictions) if is_final else head.CleanSummary(**predictions),
        )

    def _shards(self, rows: slice) -> Iterator[tuple[slice, _Shard]]:
        for index in range(rows.start // self.size, -(-rows.stop // self.size)):
            start = index * self.size
            windows = slice(start, min(start + self.size, len(self.corpus.tokens)))
            if self._last_shard is None or self._last_shard[0] != windows:
                self._last_shard = (windows, self._shard(index, windows, rows.stop - rows.start))
            yield self._last_shard

    def _part(self, windows_and_shard: tuple[slice, _Shard], rows: slice) -> _Shard:
        """Cut the windows ``rows`` out of a shard, as far as they lie in it."""
        windows, shard = windows_and_shard
        start, stop = max(rows.start, windows.start), min(rows.stop, windows.stop)
        in_shard = slice(start - windows.start, stop - windows.start)
        before = self._scored_before
        # The predictions have one row per scored token, the activations one per window.
        scored = slice(*(int(before[row] - before[windows.start]) for row in (start, stop)))
        return {
            name: {
                key: tensor[scored if name == _HEAD else in_shard]
                for key, tensor in tensors.items()
            }
            for name, tensors in shard.items()
        }

    def _shard(self, index: int, windows: slice, batch_size: int) -> _Shard:
        """Read a shard from the cache; run the missing parts, under a lock, and store them."""
        names = [*self.hooks, _HEAD]
        shard = self._read(names, index)
        if len(shard) == len(names):
            self.shard_counts["cache"] += 1
            return shard
        with self._memory.lock(f"clean/{index:06}"):
            # Another process may have stored them while this one waited for the lock.
            shard |= self._read([name for name in names if name not in shard], index)
            missing = [name for name in names if name not in shard]
            if missing:
                self.shard_counts["run"] += 1
                shard |= self._fill(index, windows, missing, batch_size)
        return shard

    def _read(self, names: Iterable[str], index: int) -> _Shard:
        stored = {name: self._memory.read(_file(name, index)) for name in names}
        return {name: dict(tensors) for name, tensors in stored.items() if tensors is not None}

    def _fill(self, index: int, windows: slice, missing: list[str], batch_size: int) -> _Shard:
        """Run a shard, store it with the further hook points, and return the missing parts."""
        later_hooks = [
            hook for hook in self._later_hooks if not self._memory.has(_file(hook, index))
        ]
        names = [*missing, *later_hooks]
        hooks = [name for name in names if name != _HEAD]
        parts: list[_Shard] = []

        def run(rows: slice) -> None:
            shard = self._run(rows, hooks, summary=_HEAD in names)
            # Last in the run: a batch that ran out of memory has appended nothing.
            parts.append({name: {k: t.cpu() for k, t in shard[name].items()} for name in names})

        for rows in batches(windows.start, windows.stop, batch_size, self.size):
            halve_on_oom(run, rows)
        shard = {
            name: {key: torch.cat([part[name][key] for part in parts]) for key in parts[0][name]}
            for name in names
        }
        for name, tensors in shard.items():
            self._memory.write(_file(name, index), tensors)
        return {name: shard[name] for name in missing}

    def _run(self, rows: slice, hooks: Iterable[str], *, summary: bool) -> _Shard:
        """Run windows clean.

        Args:
            rows: Windows.
            hooks: Hook points whose activations are returned.
            summary: True to return a `head.CleanSummary` where it suffices.
        """
        tokens = self.corpus.tokens[rows].to(self.model.device)
        # Each name once: two recorders at a hook point would look as if it fired twice.
        activations = self.model.activations(tokens, *dict.fromkeys([FINAL_HIDDEN, *hooks]))
        # SAEs read [batch, pos, width]; `hook_z` is [batch, pos, head, d_head].
        shard = {name: {"activation": activations[name].flatten(2)} for name in hooks}
        scored = self.corpus.scored[rows, :-1]
        final = activations[FINAL_HIDDEN][:, :-1]  # the last position predicts no token
        final = final[scored.to(final.device)]  # [scored, d_model]
        if summary and self._stores_summary:
            target = self.corpus.tokens[rows, 1:][scored]
            clean = head.summarise(self.model.unembedding, final, target)._asdict()
        else:
            clean = head.FinalStates(final)._asdict()
        return {**shard, _HEAD: clean}

    @property
    def _stores_summary(self) -> bool:
        """True if the cache stores a `head.CleanSummary`, not the final hidden states."""
        return self.model.unembedding.linear and head.summary_suffices()

    @cached_property
    def _has_room(self) -> bool:
        """True if the cache has room for this measurement; drops further hook points without."""
        needed, further = (
            self._missing_bytes(names) for names in ([*self.hooks, _HEAD], self._later_hooks)
        )
        if further and self._memory.reserve(needed + further):
            return True
        self._later_hooks = ()
        if self._memory.reserve(needed):
            return True
        self.no_room_reason = f"{needed / 2**30:.1f} GiB are more than it may hold"
        return False

    def _missing_bytes(self, names: Sequence[str]) -> int:
        """Return the number of bytes that the cache does not hold yet."""
        n, context = self.corpus.tokens.shape
        shards = range(-(-n // self.size))
        missing = {
            name: sum(not self._memory.has(_file(name, i)) for i in shards) for name in names
        }
        hooks = [name for name, count in missing.items() if count and name != _HEAD]
        # A probe of two tokens: widths and dtypes are known only from a run.
        activations = self.model.activations(
            torch.zeros(1, 2, dtype=torch.int64), FINAL_HIDDEN, *hooks
        )
        bytes_per_token = {name: activations[name][0, 0].nbytes for name in hooks}
        bytes_per_token[_HEAD] = activations[FINAL_HIDDEN][0, 0].nbytes
        # ē is a row of the float32 matrix, wider than a final hidden state in half precision.
        if self._stores_summary:
            bytes_per_token[_HEAD] = self.model.unembedding.weight[0].nbytes + _SUMMARY_BYTES
        tokens = self.size * context
        return sum(
            count * bytes_per_token[name] * tokens for name, count in missing.items() if count
        )


def _file(name: str, index: int) -> str:
    return f"clean/{name}/{index:06}"
