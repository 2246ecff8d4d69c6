"""Runs of a part of the model: up to the final hidden states, and from one block on.

What a hook point of block k changes is computed by the blocks from k on. The blocks before it are
taken out, and the residual that they gave is put in where they end: the same numbers, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.model.language_model import Activation, Edit, LanguageModel

_FINAL = "ln_final.hook_out"
_SOFT_CAP = "final_logit_softcapping"  # Gemma 2; the model applies it after its unembedding

Hidden = Float[Tensor, "batch pos d_model"]


class Clean(NamedTuple):
    """One clean run."""

    final: Hidden
    """What the unembedding takes."""
    residual: Hidden
    """What goes into the block of the hook points."""
    activations: list[Activation]


@dataclass(frozen=True, eq=False)
class Suffix:
    """The model from block ``block`` on; of no block, if that is their number."""

    model: LanguageModel
    block: int
    _blocks: list[Any] = field(repr=False)
    _boundary: str | None = None
    """The hook point whose activation is what goes in."""
    _gives_tuples: list[bool] = field(default_factory=list, repr=False)
    """Whether its blocks do (GPT-Neo), seen in the first clean run."""

    @classmethod
    def of(cls, model: LanguageModel, *hooks: str) -> Suffix | None:
        """The suffix from the first block of the hook points on; None where there is no such."""
        found = [re.fullmatch(r"blocks\.(\d+)\.(.+)", hook) for hook in hooks]
        blocks = list(getattr(model.bridge, "blocks", ()))
        if not all(found) or not blocks or _FINAL not in model.bridge.hook_dict:
            return None
        first = min(int(match[1]) for match in found if match)
        if len(hooks) == 1 and hooks[0].endswith(".hook_resid_post"):
            return cls(model, first + 1, blocks, hooks[0])
        at_entry = len(hooks) == 1 and found[0] and found[0][2] in ("hook_resid_pre", "hook_in")
        return cls(model, first, blocks, hooks[0] if at_entry else None)

    @property
    def _entry(self) -> str:
        """Where the residual goes in."""
        whole = self.block == len(self._blocks)
        return "ln_final.hook_in" if whole else f"blocks.{self.block}.hook_in"

    def clean(self, tokens: Int[Tensor, "batch pos"], *hooks: str) -> Clean:
        """The run of the whole model without its unembedding."""
        with self._looking():
            seen = self.model.seen(tokens, *dict.fromkeys((_FINAL, self._entry, *hooks)))
        return Clean(seen[_FINAL], seen[self._entry], [seen[hook].flatten(2) for hook in hooks])

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
        edits: dict[str, Edit] = {self._entry: lambda _: residual, hook: edit}
        if hook == self._boundary:
            edits = {self._entry: lambda _: edit(residual)}
        with self._alone():
            return self.model.edited(tokens, edits, _FINAL)

    def unembed(self, final: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocab"]:
        """Logits of final hidden states."""
        with torch.inference_mode():
            logits: Tensor = self.model.bridge.unembed(final.unsqueeze(0)).squeeze(0)
            cap = getattr(self.model.bridge.original_model.config, _SOFT_CAP, None)
            return logits if cap is None else (logits / cap).tanh() * cap

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The blocks before the suffix hand on what they are given."""
        skipped = self._blocks[: self.block]
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
        return (given, None) if any(self._gives_tuples) else given

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Note what the blocks give, once."""
        if self._gives_tuples:
            yield
            return

        def look(block: Any, given: Any, output: Any) -> None:
            self._gives_tuples.append(isinstance(output, tuple))

        handle = self._blocks[0].register_forward_hook(look)
        try:
            yield
        finally:
            handle.remove()
