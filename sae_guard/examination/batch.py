"""One batch of windows, its activations, and which of its tokens are ordinary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.corpus.windows import excluded_ids
from sae_guard.engine import HookSite
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel

_TOKENS = 2**10
# Times the median: attention sinks have hundreds of times the norm of others.
_LARGE_NORM = 10.0


@dataclass(frozen=True, eq=False)
class Batch:
    """The first windows of a corpus in which something is scored."""

    model: LanguageModel
    corpus: Corpus
    """Of these windows alone."""
    place: HookSite
    _seen: dict[str, Float[Tensor, "batch pos width"]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: LanguageModel, corpus: Corpus, place: HookSite) -> Batch:
        """About a thousand tokens, of two windows at least."""
        windows = max(2, _TOKENS // corpus.tokens.shape[1])
        rows = corpus.scored.any(dim=1).nonzero().flatten()[:windows]
        return cls(model, Corpus(corpus.tokens[rows], corpus.excluded), place)

    def look(self, hooks: Iterable[str]) -> None:
        """Run the model once for all hook points that were not seen so far.

        Raises:
            SetupError: One of them does not fire.
        """
        missing = [hook for hook in dict.fromkeys(hooks) if hook not in self._seen]
        if missing:
            seen = self.model.seen(self.corpus.tokens, *missing)
            self._seen.update({name: value.flatten(2) for name, value in seen.items()})

    def look_where_possible(self, hooks: Iterable[str]) -> list[str]:
        """The same for hook points that may not fire; those that did."""
        hooks = list(hooks)
        try:
            self.look(hooks)
        except SetupError:
            hooks = [hook for hook in hooks if self._fires(hook)]
            self.look(hooks)
        return hooks

    def _fires(self, hook: str) -> bool:
        if hook in self._seen:
            return True
        try:
            self.model.seen(torch.zeros(1, 2, dtype=torch.int64), hook)
        except SetupError:
            return False
        return True

    def whole(self, hook: str) -> Float[Tensor, "batch pos width"]:
        """The activations of all tokens, in float32 or better."""
        self.look([hook])
        found = self._seen[hook]
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def at(self, hook: str) -> Float[Tensor, "tokens width"]:
        """The activations of the ordinary tokens."""
        found = self.whole(hook)
        return found[self.ordinary.to(found.device)]

    @cached_property
    def ordinary(self) -> Bool[Tensor, "batch pos"]:
        """Scored tokens that are of no group; on the CPU, as all masks."""
        in_groups = torch.stack([*self.groups.values()]).any(dim=0)
        return self.corpus.scored & ~in_groups

    @cached_property
    def groups(self) -> Mapping[str, Bool[Tensor, "batch pos"]]:
        """Scored tokens of the kinds of `diagnosis.Group`; none is in two."""
        tokens, scored = self.corpus.tokens, self.corpus.scored
        ids = sorted(excluded_ids(self.model.tokenizer, "exclude"))
        special = scored & torch.isin(tokens, torch.tensor(ids, dtype=tokens.dtype))
        at_start = torch.zeros_like(scored)
        at_start[:, 0] = True
        norms = self.whole(self.place.replaced).norm(dim=-1).cpu()
        usual = norms[scored & ~special & ~at_start].median()
        large = scored & (norms > _LARGE_NORM * usual)
        return {
            "bos": special & at_start,
            "first": scored & at_start & ~special,
            "special": special & ~at_start,
            "large": large & ~special & ~at_start,
        }
