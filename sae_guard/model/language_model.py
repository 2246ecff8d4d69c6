"""The language model: a TransformerLens bridge, run clean or with activations replaced.

Logits are the model's own. For a model in half precision they are computed in float32 from its
final hidden states, if that gives the model's own numbers up to rounding.
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
from sae_guard.model.residual_mid import Hooks
from sae_guard.model.unembedding import Unembedding

Activation = Float[Tensor, "batch pos d_in"]
Edit = Callable[[Activation], Activation]
"""Activation at a hook point → its replacement, of the same shape."""
Processing = Literal["raw", "hooked"]
Records = dict[str, list[Tensor]]
"""Hook point → its activations in a run, one for each time that it fired."""

FINAL_HIDDEN = "ln_final.hook_out"
"""Hook point of the final hidden states, which the unembedding turns into logits."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A bridge of TransformerLens 3.9 or 4.x, with its name and revision.

    Activations have the shape [batch, pos, d_in]. At ``attn.hook_z`` TransformerLens has
    [batch, pos, head, d_head]: the heads are flattened when it is read, restored when it is
    replaced.
    """

    bridge: Any = field(repr=False)
    name: str
    revision: str | None = None
    processing: Processing = "raw"
    _mid_is_residual: dict[str, bool] = field(default_factory=dict, repr=False)
    """`residual_mid.reaches_residual` for each hook point that was tried."""

    @property
    def tokenizer(self) -> Any:
        """Hugging Face tokenizer of the model."""
        return self.bridge.tokenizer

    @property
    def device(self) -> torch.device:
        """Device of the token ids. A model on several devices has activations on the others too."""
        return torch.device(self.bridge.cfg.device)

    @property
    def context_size(self) -> int:
        """Maximum number of positions of a sequence."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens in the model's prediction, the last dimension of its logits."""
        return int(self.bridge.cfg.d_vocab)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON object that identifies the model in the provenance of a measurement."""
        return {
            "name": self.name,
            "revision": self.revision,
            "processing": self.processing,
            "dtype": str(self.bridge.cfg.dtype).removeprefix("torch."),
            "transformer_lens": importlib.metadata.version("transformer-lens"),
        }

    @property
    def uses_layer_norm(self) -> bool:
        """True if its norms subtract the mean (LayerNorm); its weights can then be centred."""
        return str(self.bridge.cfg.normalization_type).startswith("LN")

    def check_hook(self, hook: str) -> None:
        """Raise an error unless the model has this hook point.

        Raises:
            SetupError: There is none; the message lists the nearest names.
        """
        # TransformerLens 3.9 silently ignores an unknown name.
        names = [name for name in self.bridge.hook_dict if "hook_" in name]
        if hook not in names:
            raise SetupError(f"{self.name} has no hook point {hook!r}; {allowed(hook, names)}")

    def width(self, hook: str) -> int:
        """Return d_in, the width of the activation at ``hook``, measured on two tokens.

        Raises:
            SetupError: The model has no such hook point, or it did not fire exactly once.
        """
        self.check_hook(hook)
        tokens = torch.zeros(1, 2, dtype=torch.int64)
        # hook_z has a dimension for heads.
        return self.activations(tokens, hook)[hook].flatten(2).shape[-1]

    @cached_property
    def unembedding(self) -> Unembedding:
        """Unembedding in float32 or better; of a half-precision model it holds a float32 copy."""
        return Unembedding.from_bridge(self.bridge, self.name)

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of a clean run, in float32 where possible (see the module)."""
        return self._logits(tokens, [])

    def logits_and_activation(
        self, tokens: Int[Tensor, "batch pos"], hook: str
    ) -> tuple[Float[Tensor, "batch pos vocab"], Activation]:
        """Return the logits of a clean run and the activation at ``hook``, in the model's dtype.

        Raises:
            SetupError: The hook point did not fire exactly once.
        """
        logits, (activation,) = self.logits_and_activations(tokens, hook)
        return logits, activation

    def logits_and_activations(
        self, tokens: Int[Tensor, "batch pos"], *hooks: str
    ) -> tuple[Float[Tensor, "batch pos vocab"], list[Activation]]:
        """Return the logits of a clean run and the activation at each of ``hooks``.

        Raises:
            SetupError: A hook point did not fire exactly once.
        """
        records: Records = {}
        logits = self._logits(tokens, _recorders(hooks, records))
        activations = self._single(hooks, records)
        return logits, [activations[hook].flatten(2) for hook in hooks]

    def logits_with(
        self, tokens: Int[Tensor, "batch pos"], hook: str, edit: Edit
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of a run whose activation at ``hook`` is ``edit(activation)``.

        Args:
            tokens: Token ids.
            hook: Hook point that is replaced.
            edit: Gets the activation [batch, pos, d_in] and returns its replacement.

        Raises:
            SetupError: The hook point cannot be replaced, or did not fire exactly once.
        """
        fired: Counter[str] = Counter()
        logits = self._logits(tokens, self._replacement_hooks({hook: edit}, fired))
        self._require_one_firing([hook], fired)
        return logits

    def activations(self, tokens: Int[Tensor, "batch pos"], *hooks: str) -> dict[str, Tensor]:
        """Return the activations at hook points in a clean run that computes no logits.

        Args:
            tokens: Token ids.
            hooks: Hook points.

        Returns:
            Hook point → activation in the shape that TransformerLens gives it.

        Raises:
            SetupError: A hook point did not fire exactly once.
        """
        records: Records = {}
        self._run(tokens, _recorders(hooks, records), without_logits=True)
        return self._single(hooks, records)

    def activation_with(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[str, Edit], hook: str
    ) -> Tensor:
        """Return the activation at ``hook`` in a run with activations replaced, without logits.

        Args:
            tokens: Token ids.
            edits: Hook point → edit of its activation.
            hook: Hook point that is returned.

        Raises:
            SetupError: A hook point cannot be replaced, or did not fire exactly once.
        """
        fired: Counter[str] = Counter()
        records: Records = {}
        hooks = [*self._replacement_hooks(edits, fired), *_recorders([hook], records)]
        self._run(tokens, hooks, without_logits=True)
        self._require_one_firing(edits, fired)
        return records[hook][0]

    def _replacement_hooks(self, edits: Mapping[str, Edit], fired: Counter[str]) -> Hooks:
        """Return hooks that apply the edits and count how often each hook point fires."""

        def replacer(name: str, edit: Edit) -> residual_mid.Replace:
            def replace(activation: Tensor, hook: Any) -> Tensor:
                fired[name] += 1
                return edit(activation.flatten(2)).to(activation).view_as(activation)

            return replace

        return [
            hook
            for name, edit in edits.items()
            for hook in self._hooks_at(name, replacer(name, edit))
        ]

    def _single(self, hooks: Iterable[str], records: Records) -> dict[str, Tensor]:
        """Return the one activation of each hook point; raise `SetupError` for none or several."""
        self._require_one_firing(hooks, {hook: len(values) for hook, values in records.items()})
        return {hook: values[0] for hook, values in records.items()}

    def _require_one_firing(self, hooks: Iterable[str], fired: Mapping[str, int]) -> None:
        """Raise `SetupError` unless each hook point fired once, so that one value is the value."""
        for hook in hooks:
            if fired.get(hook, 0) != 1:
                raise SetupError(
                    f"hook point {hook!r} of {self.name} fired {fired.get(hook, 0)} times, "
                    "expected 1: choose a hook point that every run computes once"
                )

    def _hooks_at(self, hook: str, replace: residual_mid.Replace) -> Hooks:
        """Return the hooks that replace the activation at ``hook`` wherever it is used."""
        if not hook.endswith(residual_mid.SUFFIX):
            return [(hook, replace)]
        if hook not in self._mid_is_residual:
            self._mid_is_residual[hook] = residual_mid.reaches_residual(self._run, hook)
        if self._mid_is_residual[hook]:
            return [(hook, replace)]
        return residual_mid.with_residual(hook, replace)

    def _logits(
        self, tokens: Int[Tensor, "batch pos"], hooks: Hooks
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of a run, in float32 or better where `_recomputes_logits`."""
        # Hooks at the model's own unembedding must act on the logits that are returned.
        if not self._recomputes_logits or any("unembed" in hook for hook, _ in hooks):
            return self._run(tokens, hooks)
        records: Records = {}
        self._run(tokens, [*hooks, *_recorders([FINAL_HIDDEN], records)])
        final = records[FINAL_HIDDEN][0]
        # [batch, pos, vocab]
        return self.unembedding.logits(final.flatten(0, 1)).view(*final.shape[:2], -1)

    @cached_property
    def _recomputes_logits(self) -> bool:
        """True if half-precision logits can be replaced by those of a float32 unembedding.

        The two must be equal up to rounding on a few tokens. They differ in models that scale their
        logits (Cohere, Granite) or project the final hidden states before the unembedding.
        """
        half = self.bridge.cfg.dtype.itemsize < 4
        if not half or FINAL_HIDDEN not in self.bridge.hook_dict or not self.unembedding.has_matrix:
            return False
        tokens = torch.arange(16).view(2, 8) % self.vocabulary_size
        records: Records = {}
        own_logits = self._run(tokens, _recorders([FINAL_HIDDEN], records))
        finals = [final.flatten(0, 1) for final in records.get(FINAL_HIDDEN, ())]
        return len(finals) == 1 and self.unembedding.reproduces(finals[0], own_logits.flatten(0, 1))

    @cached_property
    def _forward_options(self) -> dict[str, Any]:
        """Options that switch off the cache of keys and values, which serves only generation."""
        parameters = inspect.signature(self.bridge.original_model.forward).parameters
        return {"use_cache": False} if "use_cache" in parameters else {}

    def _run(
        self, tokens: Int[Tensor, "batch pos"], hooks: Hooks, *, without_logits: bool = False
    ) -> Float[Tensor, "batch pos vocab"]:
        """Run the bridge with hooks and return its logits.

        Args:
            tokens: Token ids.
            hooks: Functions at hook points, which return a replacement or None.
            without_logits: Whether the caller needs no logits; the result is then incomplete.
        """
        tokens = tokens.to(self.device)
        try:
            with torch.inference_mode():
                logits: Tensor = self.bridge.run_with_hooks(
                    tokens,
                    return_type="logits",
                    fwd_hooks=hooks,
                    # Windows have no padding. Without a mask the bridge would look for pad tokens
                    # and mask the BOS tokens of GPT-2 and Pythia, which have the same id.
                    attention_mask=torch.ones_like(tokens),
                    # The last position alone: models cannot return logits of none.
                    **({"logits_to_keep": 1} if without_logits else {}),
                    **self._forward_options,
                )
        except ValueError as error:
            # Raised for hook points that a setting of TransformerLens has to switch on.
            if "Cannot add hook" in str(error):
                raise SetupError(str(error)) from error
            raise
        return logits


def _recorders(hooks: Iterable[str], records: Records) -> Hooks:
    """Return hooks that add a copy of each activation to ``records`` and change nothing."""

    def recorder(name: str) -> residual_mid.HookFunction:
        def record(activation: Tensor, hook: Any) -> None:  # None: the activation stays as it is
            records.setdefault(name, []).append(activation.clone())

        return record

    return [(hook, recorder(hook)) for hook in hooks]
