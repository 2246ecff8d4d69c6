"""`ExaminedBatch`: the first windows of a corpus, their activations, and kinds of tokens."""

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
"""Tokens to examine, about: few enough for one forward pass."""
_LARGE_NORM = 10.0
"""Norm above which a token is no ordinary one, as a multiple of the median norm."""


@dataclass(frozen=True, eq=False)
class ExaminedBatch:
    """The first windows of a corpus that have scored tokens, and their activations.

    Activations are computed when they are first needed, and kept on the model's device.
    """

    model: LanguageModel
    corpus: Corpus
    """Corpus of these windows alone."""
    site: HookSite
    """Hook points that the SAE reads and replaces."""
    _activations: dict[str, Float[Tensor, "batch pos width"]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def from_corpus(cls, model: LanguageModel, corpus: Corpus, site: HookSite) -> ExaminedBatch:
        """Take windows with about a thousand tokens in all, and at least two windows."""
        windows = max(2, _TOKENS // corpus.tokens.shape[1])
        rows = corpus.scored.any(dim=1).nonzero().flatten()[:windows]
        return cls(model, Corpus(corpus.tokens[rows], corpus.excluded), site)

    def run_model(self, hooks: Iterable[str]) -> None:
        """Run the model once, and keep the activations of all hook points that are missing.

        Raises:
            SetupError: One of the hook points does not fire.
        """
        missing = [hook for hook in dict.fromkeys(hooks) if hook not in self._activations]
        if missing:
            activations = self.model.activations(self.corpus.tokens, *missing)
            # The heads of hook_z and the like are one width to an SAE.
            self._activations.update({name: x.flatten(2) for name, x in activations.items()})

    def run_model_where_possible(self, hooks: Iterable[str]) -> list[str]:
        """Run the model for hook points of which some may not fire; return those that do."""
        hooks = list(hooks)
        try:
            self.run_model(hooks)
        except SetupError:
            # Ask for each hook point alone, on two tokens, which is cheap.
            hooks = [hook for hook in hooks if self._fires(hook)]
            self.run_model(hooks)
        return hooks

    def _fires(self, hook: str) -> bool:
        if hook in self._activations:
            return True
        try:
            self.model.activations(torch.zeros(1, 2, dtype=torch.int64), hook)
        except SetupError:
            return False
        return True

    def activations(self, hook: str) -> Float[Tensor, "batch pos width"]:
        """Return the activations of all tokens, in float32 or better."""
        self.run_model([hook])
        x = self._activations[hook]
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def ordinary_activations(self, hook: str) -> Float[Tensor, "tokens width"]:
        """Return the activations of the ordinary tokens, in float32 or better."""
        x = self.activations(hook)
        return x[self.ordinary.to(x.device)]

    @cached_property
    def ordinary(self) -> Bool[Tensor, "batch pos"]:
        """Mask of the ordinary tokens: scored, and in none of the groups. On the CPU."""
        in_groups = torch.stack([*self.groups.values()]).any(dim=0)
        return self.corpus.scored & ~in_groups

    @cached_property
    def groups(self) -> Mapping[str, Bool[Tensor, "batch pos"]]:
        """Masks of the scored tokens that behave unlike others, by `diagnosis.Group.name`.

        No token is in two groups. On the CPU, as are the corpus's own masks.
        """
        tokens, scored = self.corpus.tokens, self.corpus.scored
        ids = sorted(excluded_ids(self.model.tokenizer, "exclude"))
        special = scored & torch.isin(tokens, torch.tensor(ids, dtype=tokens.dtype))
        at_start = torch.zeros_like(scored)
        at_start[:, 0] = True
        norms = self.activations(self.site.replaced).norm(dim=-1).cpu()  # [batch, pos]
        median = norms[scored & ~special & ~at_start].median()
        # Attention sinks have hundreds of times the norm of other tokens (Sun et al. 2024, "Massive
        # activations in large language models"): a few of them would dominate every sum.
        large = scored & (norms > _LARGE_NORM * median)
        return {
            "bos": special & at_start,
            "first": scored & at_start & ~special,
            "special": special & ~at_start,
            "large": large & ~special & ~at_start,
        }
