"""The language model: a TransformerLens bridge, run clean or with one hook point replaced.

Logits are the model's own. Those of a model of halves are made anew in float32 from its final
hidden states, where that gives the same numbers but for their rounding.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.errors import SetupError, allowed
from sae_guard.model import residual_mid
from sae_guard.model.unembedding import Unembedding

Activation = Float[Tensor, "batch pos d_in"]
Edit = Callable[[Activation], Activation]
Processing = Literal["raw", "hooked"]

FINAL = "ln_final.hook_out"
"""Where the final hidden states are."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A bridge of TransformerLens 3.9 or 4.x and what identifies it.

    Activations are presented as [batch, pos, d_in]: the heads of ``attn.hook_z``
    ([batch, pos, head, d_head]) are flattened on the way out and restored on the way in.
    """

    bridge: Any = field(repr=False)
    name: str
    revision: str | None = None
    processing: Processing = "raw"
    _mid_is_residual: dict[str, bool] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer of the model."""
        return self.bridge.tokenizer

    @property
    def device(self) -> torch.device:
        """Where tokens go; of a model on several devices, activations may lie on the others."""
        return torch.device(self.bridge.cfg.device)

    @property
    def context_size(self) -> int:
        """Positions the model has."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def vocabulary_size(self) -> int:
        """Tokens the model predicts over."""
        return int(self.bridge.cfg.d_vocab)

    @property
    def identity(self) -> dict[str, Any]:
        """What the model is, for the provenance."""
        return {
            "name": self.name,
            "revision": self.revision,
            "processing": self.processing,
            "dtype": str(self.bridge.cfg.dtype).removeprefix("torch."),
            "transformer_lens": importlib.metadata.version("transformer-lens"),
        }

    @property
    def centres(self) -> bool:
        """Whether its norms take off the mean, as LayerNorm does: weights can then be centred."""
        return str(self.bridge.cfg.normalization_type).startswith("LN")

    def check_hook(self, hook: str) -> None:
        """Raise `SetupError` with the nearest names unless the model has this hook point.

        TransformerLens 3.9 ignores an unknown name silently.
        """
        names = [name for name in self.bridge.hook_dict if "hook_" in name]
        if hook not in names:
            hint = allowed(hook, names)
            raise SetupError(f"{self.name} has no hook point {hook!r}; {hint}")

    def width(self, hook: str) -> int:
        """d_in of the activation at ``hook``; raises `SetupError` for an unknown hook point."""
        self.check_hook(hook)
        seen: dict[str, list[Tensor]] = {}
        self._run(torch.zeros(1, 2, dtype=torch.int64), _keepers([hook], seen))
        self._check_fired([hook], {name: len(found) for name, found in seen.items()})
        return seen[hook][0].flatten(2).shape[-1]

    @cached_property
    def unembedding(self) -> Unembedding:
        """Final hidden states → logits; of a model of halves, with a float32 copy of its matrix."""
        return Unembedding.of(self)

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """The clean run."""
        return self._logits(tokens, [])

    def logits_and_activation(
        self, tokens: Int[Tensor, "batch pos"], hook: str
    ) -> tuple[Float[Tensor, "batch pos vocab"], Activation]:
        """The clean run, and the activation at ``hook`` in the model's dtype."""
        logits, (activation,) = self.logits_and_activations(tokens, hook)
        return logits, activation

    def logits_and_activations(
        self, tokens: Int[Tensor, "batch pos"], *hooks: str
    ) -> tuple[Float[Tensor, "batch pos vocab"], list[Activation]]:
        """The clean run, and the activation at each of ``hooks`` in the model's dtype."""
        seen: dict[str, list[Tensor]] = {}
        logits = self._logits(tokens, _keepers(hooks, seen))
        self._check_fired(hooks, {hook: len(found) for hook, found in seen.items()})
        return logits, [seen[hook][0].flatten(2) for hook in hooks]

    def logits_with(
        self, tokens: Int[Tensor, "batch pos"], hook: str, edit: Edit
    ) -> Float[Tensor, "batch pos vocab"]:
        """The run in which the activation at ``hook`` is replaced by ``edit(activation)``.

        Raises:
            SetupError: The hook point cannot be replaced, or did not fire exactly once.
        """
        fired: Counter[str] = Counter()
        logits = self._logits(tokens, self._replacing({hook: edit}, fired))
        self._check_fired([hook], fired)
        return logits

    def seen(self, tokens: Int[Tensor, "batch pos"], *hooks: str) -> dict[str, Tensor]:
        """The activations at ``hooks``, of a clean run without its unembedding."""
        seen: dict[str, list[Tensor]] = {}
        self._run(tokens, _keepers(hooks, seen), without_logits=True)
        self._check_fired(hooks, {hook: len(found) for hook, found in seen.items()})
        return {hook: found[0] for hook, found in seen.items()}

    def edited(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[str, Edit], look: str
    ) -> Tensor:
        """What stands at ``look`` in a run with activations replaced, without its unembedding."""
        fired: Counter[str] = Counter()
        seen: dict[str, list[Tensor]] = {}
        hooks = [*self._replacing(edits, fired), *_keepers([look], seen)]
        self._run(tokens, hooks, without_logits=True)
        self._check_fired(edits, fired)
        return seen[look][0]

    def _replacing(self, edits: Mapping[str, Edit], fired: Counter[str]) -> residual_mid.Hooks:
        def replacer(name: str, edit: Edit) -> residual_mid.Replace:
            def replace(activation: Tensor, hook: Any) -> Tensor:
                fired[name] += 1
                return edit(activation.flatten(2)).to(activation).view_as(activation)

            return replace

        return [
            hook for name, edit in edits.items() for hook in self._hooks(name, replacer(name, edit))
        ]

    def _check_fired(self, hooks: Iterable[str], fired: Mapping[str, int]) -> None:
        for hook in hooks:
            if fired.get(hook, 0) != 1:
                raise SetupError(
                    f"hook point {hook!r} of {self.name} fired {fired.get(hook, 0)} times, "
                    "expected 1"
                )

    def _hooks(self, hook: str, replace: residual_mid.Replace) -> residual_mid.Hooks:
        if not hook.endswith(residual_mid.SUFFIX):
            return [(hook, replace)]
        if hook not in self._mid_is_residual:
            self._mid_is_residual[hook] = residual_mid.reaches_residual(self._run, hook)
        if self._mid_is_residual[hook]:
            return [(hook, replace)]
        return residual_mid.with_residual(hook, replace)

    def _logits(
        self, tokens: Int[Tensor, "batch pos"], hooks: residual_mid.Hooks
    ) -> Float[Tensor, "batch pos vocab"]:
        """The logits of a run; in float32 or better, unless only the model itself can make them."""
        # What is read or replaced at the unembedding must be of the logits that are given.
        if not self._widens or any("unembed" in hook for hook, _ in hooks):
            return self._run(tokens, hooks)
        final: dict[str, list[Tensor]] = {}
        self._run(tokens, [*hooks, *_keepers([FINAL], final)])
        found = final[FINAL][0]
        return self.unembedding.logits(found.flatten(0, 1)).view(*found.shape[:2], -1)

    @cached_property
    def _widens(self) -> bool:
        """Whether the logits are halves, and those of the unembedding are theirs but for rounding.

        They are others where the model scales them (Cohere, Granite) or projects what it unembeds.
        """
        half = self.bridge.cfg.dtype.itemsize < 4
        if not half or FINAL not in self.bridge.hook_dict or not self.unembedding.wide:
            return False
        tokens = torch.arange(16).view(2, 8) % self.vocabulary_size
        final: dict[str, list[Tensor]] = {}
        own = self._run(tokens, _keepers([FINAL], final))
        found = [seen.flatten(0, 1) for seen in final.get(FINAL, ())]
        return len(found) == 1 and self.unembedding.gives(found[0], own.flatten(0, 1))

    @cached_property
    def _quick(self) -> dict[str, Any]:
        """What keeps the model from keeping keys and values for tokens that do not come."""
        parameters = inspect.signature(self.bridge.original_model.forward).parameters
        return {"use_cache": False} if "use_cache" in parameters else {}

    def _run(
        self,
        tokens: Int[Tensor, "batch pos"],
        hooks: residual_mid.Hooks,
        *,
        without_logits: bool = False,
    ) -> Float[Tensor, "batch pos vocab"]:
        tokens = tokens.to(self.device)
        try:
            with torch.inference_mode():
                logits: Tensor = self.bridge.run_with_hooks(
                    tokens,
                    return_type="logits",
                    fwd_hooks=hooks,
                    # Windows have no padding; left to itself the bridge looks for pad tokens,
                    # which are the BOS tokens of GPT-2 and Pythia.
                    attention_mask=torch.ones_like(tokens),
                    # Of the last position alone, the fewest that a model gives.
                    **({"logits_to_keep": 1} if without_logits else {}),
                    **self._quick,
                )
        except ValueError as error:
            if "Cannot add hook" in str(error):  # hook points that are off unless asked for
                raise SetupError(str(error)) from error
            raise
        return logits


def _keepers(hooks: Iterable[str], seen: dict[str, list[Tensor]]) -> residual_mid.Hooks:
    """Hooks that keep what they see."""

    def keeper(name: str) -> residual_mid.HookFunction:
        def keep(activation: Tensor, hook: Any) -> None:  # nothing returned is nothing edited
            seen.setdefault(name, []).append(activation.clone())

        return keep

    return [(hook, keeper(hook)) for hook in hooks]
