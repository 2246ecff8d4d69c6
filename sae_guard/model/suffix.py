"""Runs of some blocks of the model: up to a hook point, or from a block to the final hidden states.

A replacement in block k has no effect on the blocks before it. Patched runs skip these, and start
from the residual stream that a clean run had at block k: the same numbers, bit for bit.
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

from sae_guard.model.language_model import FINAL_HIDDEN, Edit, LanguageModel
from sae_guard.model.unembedding import Unembedding

Hidden = Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True, eq=False)
class Suffix:
    """The blocks of the model from ``block`` on, and its final norm."""

    model: LanguageModel
    block: int
    """Index of the first block; the number of blocks if there is none, only the final norm."""
    _blocks: list[Any] = field(repr=False)
    _boundary: str | None = None
    """The hook point of the SAE, if its activation is the residual that enters the suffix."""

    @classmethod
    def from_hooks(cls, model: LanguageModel, *hooks: str) -> Suffix | None:
        """Return the shortest suffix of the model that contains the hook points.

        Args:
            model: The model.
            hooks: Hook points that the runs read or replace.

        Returns:
            The suffix; None if a hook point lies outside of the blocks, or the model has no list of
            blocks or no final norm that TransformerLens knows.
        """
        matches = [re.fullmatch(r"blocks\.(\d+)\.(.+)", hook) for hook in hooks]
        blocks = list(getattr(model.bridge, "blocks", ()))
        if not all(matches) or not blocks or FINAL_HIDDEN not in model.bridge.hook_dict:
            return None
        first = min(int(match[1]) for match in matches if match)
        # The output of a block is the input of the next one, which is where the suffix can start.
        if len(hooks) == 1 and hooks[0].endswith(".hook_resid_post"):
            return cls(model, first + 1, blocks, hooks[0])
        is_entry = len(hooks) == 1 and matches[0] and matches[0][2] in ("hook_resid_pre", "hook_in")
        return cls(model, first, blocks, hooks[0] if is_entry else None)

    @property
    def entry(self) -> str:
        """Hook point at which the residual stream enters the suffix."""
        has_no_block = self.block == len(self._blocks)
        return "ln_final.hook_in" if has_no_block else f"blocks.{self.block}.hook_in"

    @property
    def unembedding(self) -> Unembedding:
        """Unembedding of the model."""
        return self.model.unembedding

    def clean_hook(self, hook: str) -> str:
        """Return the hook point at which a clean run has the activation of ``hook``."""
        return self.entry if hook == self._boundary else hook

    def clean_hooks(self, *hooks: str) -> list[str]:
        """Return the hook points whose clean activations runs of the suffix need.

        Args:
            hooks: Hook points that the runs read or replace.
        """
        return list(dict.fromkeys([self.entry, *map(self.clean_hook, hooks)]))

    def final_hidden_with(
        self, tokens: Int[Tensor, "batch pos"], residual: Hidden, hook: str, edit: Edit
    ) -> Hidden:
        """Return the final hidden states of a run with the activation at ``hook`` replaced.

        Args:
            tokens: Token ids of the residual; the model derives positions and masks from them.
            residual: Residual stream that enters the suffix, from a clean run.
            hook: Hook point in the suffix.
            edit: Gets the activation at ``hook`` and returns its replacement.

        Raises:
            SetupError: The hook point cannot be replaced, or did not fire exactly once.
        """
        edits: dict[str, Edit] = {self.entry: lambda _: residual, hook: edit}
        if hook == self._boundary:
            # One hook point for both: the residual is put in and edited at once.
            edits = {self.entry: lambda entering: edit(residual.to(entering.device))}
        with self._without(self._blocks[: self.block]):
            return self.model.activation_with(tokens, edits, FINAL_HIDDEN)

    def activation_at(
        self, tokens: Int[Tensor, "batch pos"], hook: str
    ) -> Float[Tensor, "batch pos *width"]:
        """Return the activation at ``hook`` of a clean run that skips the blocks after it.

        Args:
            tokens: Token ids.
            hook: Hook point anywhere in the model.

        Raises:
            SetupError: The hook point did not fire exactly once.
        """
        block = re.match(r"blocks\.(\d+)\.", hook)
        after = self._blocks[int(block[1]) + 1 :] if block else []
        with self._without(after):
            return self.model.activations(tokens, hook)[hook]

    @contextmanager
    def _without(self, skipped: list[Any]) -> Iterator[None]:
        """Make some blocks return their input, as long as the context lasts."""
        _ = self._blocks_return_tuples  # has to be tried while no block is skipped
        for block in skipped:
            # Set on the instance by `object`, since the bridge overrides attribute access.
            object.__setattr__(block, "forward", self._identity)
        try:
            yield
        finally:
            for block in skipped:
                block.__dict__.pop("forward", None)  # the one of its class is found again

    def _identity(self, *args: Any, **kwargs: Any) -> Any:
        # Architectures pass the hidden states by position or by name.
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, None) if self._blocks_return_tuples else hidden

    @cached_property
    def _blocks_return_tuples(self) -> bool:
        """True if the blocks return (hidden states, attention weights), as in GPT-Neo."""
        is_tuple: list[bool] = []

        def inspect_output(block: Any, arguments: Any, output: Any) -> None:
            is_tuple.append(isinstance(output, tuple))

        handle = self._blocks[0].register_forward_hook(inspect_output)
        try:
            self.model.activations(torch.zeros(1, 2, dtype=torch.int64), FINAL_HIDDEN)
        finally:
            handle.remove()
        return is_tuple[0]
