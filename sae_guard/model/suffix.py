"""Runs of a part of the model: up to the final hidden states, and from one block on.

What a hook point of block k changes is computed by the blocks from k on. The blocks before it are
taken out, and the residual that they gave is put in where they end: the same numbers, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.model.language_model import FINAL, Edit, LanguageModel
from sae_guard.model.unembedding import Unembedding

Hidden = Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True, eq=False)
class Suffix:
    """The model from block ``block`` on; of no block, if that is their number."""

    model: LanguageModel
    block: int
    _blocks: list[Any] = field(repr=False)
    _boundary: str | None = None
    """The hook point whose activation is what goes in."""

    @classmethod
    def of(cls, model: LanguageModel, *hooks: str) -> Suffix | None:
        """The suffix from the first block of the hook points on; None where there is no such."""
        found = [re.fullmatch(r"blocks\.(\d+)\.(.+)", hook) for hook in hooks]
        blocks = list(getattr(model.bridge, "blocks", ()))
        if not all(found) or not blocks or FINAL not in model.bridge.hook_dict:
            return None
        first = min(int(match[1]) for match in found if match)
        if len(hooks) == 1 and hooks[0].endswith(".hook_resid_post"):
            return cls(model, first + 1, blocks, hooks[0])
        at_entry = len(hooks) == 1 and found[0] and found[0][2] in ("hook_resid_pre", "hook_in")
        return cls(model, first, blocks, hooks[0] if at_entry else None)

    @property
    def entry(self) -> str:
        """The hook point where the residual goes in."""
        whole = self.block == len(self._blocks)
        return "ln_final.hook_in" if whole else f"blocks.{self.block}.hook_in"

    @property
    def unembedding(self) -> Unembedding:
        """Of the model."""
        return self.model.unembedding

    def source(self, hook: str) -> str:
        """The hook point at which a clean run shows the activation of ``hook``."""
        return self.entry if hook == self._boundary else hook

    def sources(self, *hooks: str) -> list[str]:
        """Where a clean run shows all that runs of the suffix take: residual and activations."""
        return list(dict.fromkeys([self.entry, *map(self.source, hooks)]))

    def final_with(
        self, tokens: Int[Tensor, "batch pos"], residual: Hidden, hook: str, edit: Edit
    ) -> Hidden:
        """The final hidden states with the activation at ``hook`` replaced by its edit.

        Args:
            tokens: Those of the residual, for what depends on their number and places.
            residual: What goes into the first block of the suffix.
            hook: In the suffix.
            edit: Of the activation.

        Raises:
            SetupError: The hook point cannot be replaced, or did not fire exactly once.
        """
        edits: dict[str, Edit] = {self.entry: lambda _: residual, hook: edit}
        if hook == self._boundary:
            edits = {self.entry: lambda given: edit(residual.to(given.device))}
        with self._without(self._blocks[: self.block]):
            return self.model.edited(tokens, edits, FINAL)

    def before(
        self, tokens: Int[Tensor, "batch pos"], hook: str
    ) -> Float[Tensor, "batch pos *width"]:
        """The activation at ``hook`` of a clean run, of which the blocks after it are left out."""
        block = re.match(r"blocks\.(\d+)\.", hook)
        after = self._blocks[int(block[1]) + 1 :] if block else []
        with self._without(after):
            return self.model.seen(tokens, hook)[hook]

    @contextmanager
    def _without(self, skipped: list[Any]) -> Iterator[None]:
        """Some blocks hand on what they are given."""
        _ = self._gives_tuples  # found out while all blocks run
        for block in skipped:
            # On the instance: the bridge overrides attribute access.
            object.__setattr__(block, "forward", self._hand_on)
        try:
            yield
        finally:
            for block in skipped:
                block.__dict__.pop("forward", None)

    def _hand_on(self, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, None) if self._gives_tuples else given

    @cached_property
    def _gives_tuples(self) -> bool:
        """Whether the model's blocks do (GPT-Neo)."""
        found: list[bool] = []

        def look(block: Any, given: Any, output: Any) -> None:
            found.append(isinstance(output, tuple))

        handle = self._blocks[0].register_forward_hook(look)
        try:
            self.model.seen(torch.zeros(1, 2, dtype=torch.int64), FINAL)
        finally:
            handle.remove()
        return found[0]
