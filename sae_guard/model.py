"""The language model: a TransformerLens bridge, run clean or with one hook point replaced."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_guard import residual_mid
from sae_guard.errors import InfrastructureError, SetupError, allowed

Activation = Float[Tensor, "batch pos d_in"]
Edit = Callable[[Activation], Activation]
Processing = Literal["raw", "hooked"]


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
        """Where tokens go and logits come from."""
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
        two_tokens = torch.zeros(1, 2, dtype=torch.int64)
        return self.logits_and_activation(two_tokens, hook)[1].shape[-1]

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """The clean run."""
        return self._run(tokens, [])

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
        seen: dict[str, list[Tensor]] = {hook: [] for hook in hooks}

        def keeper(name: str) -> residual_mid.HookFunction:
            def keep(activation: Tensor, hook: Any) -> None:  # nothing returned is nothing edited
                seen[name].append(activation.flatten(2).clone())

            return keep

        logits = self._run(tokens, [(hook, keeper(hook)) for hook in hooks])
        for hook, activations in seen.items():
            self._check_fired(hook, len(activations))
        return logits, [activations[0] for activations in seen.values()]

    def logits_with(
        self, tokens: Int[Tensor, "batch pos"], hook: str, edit: Edit
    ) -> Float[Tensor, "batch pos vocab"]:
        """The run in which the activation at ``hook`` is replaced by ``edit(activation)``.

        Raises:
            SetupError: The hook point cannot be replaced, or did not fire exactly once.
        """
        fired = 0

        def replace(activation: Tensor, hook: Any) -> Tensor:
            nonlocal fired
            fired += 1
            return edit(activation.flatten(2)).to(activation.dtype).view_as(activation)

        logits = self._run(tokens, self._hooks(hook, replace))
        self._check_fired(hook, fired)
        return logits

    def _check_fired(self, hook: str, times: int) -> None:
        if times != 1:
            raise SetupError(f"hook point {hook!r} of {self.name} fired {times} times, expected 1")

    def _hooks(self, hook: str, replace: residual_mid.Replace) -> residual_mid.Hooks:
        if not hook.endswith(residual_mid.SUFFIX):
            return [(hook, replace)]
        if hook not in self._mid_is_residual:
            self._mid_is_residual[hook] = residual_mid.reaches_residual(self._run, hook)
        if self._mid_is_residual[hook]:
            return [(hook, replace)]
        return residual_mid.with_residual(hook, replace)

    def _run(
        self, tokens: Int[Tensor, "batch pos"], hooks: residual_mid.Hooks
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
                )
        except ValueError as error:
            if "Cannot add hook" in str(error):  # hook points that are off unless asked for
                raise SetupError(str(error)) from error
            raise
        return logits


def load_model(
    name: str | Path,
    *,
    dtype: str = "float32",
    processing: Processing = "raw",
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> LanguageModel:
    """Load a Hugging Face model by name, or from a local folder, into a bridge.

    Args:
        name: Hugging Face name, or a folder with ``config.json`` and the weights.
        dtype: What the model computes in; metrics are float32 or better regardless.
        processing: ``raw`` weights, or ``hooked``: layer norms folded and weights centred as
            HookedTransformer does by default, which SAEs trained on it need.
        revision: Of the Hugging Face repository.
        device: Where the model runs.

    Raises:
        SetupError: There is no such model.
        InfrastructureError: The hub cannot be reached.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if isinstance(name, Path) and not (name / "config.json").is_file():
        raise SetupError(f"{name} is no model folder (no config.json); {_folders_beside(name)}")
    with _quiet_transformers():
        try:
            bridge = TransformerBridge.boot_transformers(
                str(name), dtype=getattr(torch, dtype), revision=revision, device=device
            )
        except OSError as error:
            raise _not_loaded(str(name), error) from error
        if processing == "hooked":
            bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.eval()
    return LanguageModel(bridge, str(name), revision, processing)


def _not_loaded(name: str, error: OSError) -> SetupError | InfrastructureError:
    """An error that says whether the model does not exist or could not be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    reason = str(error).splitlines()[0]
    hint = allowed(name, OFFICIAL_MODEL_NAMES)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
            return InfrastructureError(
                f"model {name!r} is not in the local cache and the hub cannot be reached: "
                f"{reason} If the name is wrong: {hint}"
            )
        chain = chain.__cause__ or chain.__context__
    return SetupError(f"no model {name!r}: {reason} {hint}")


def _folders_beside(path: Path) -> str:
    parent = path.parent
    found = [p.parent.name for p in parent.glob("*/config.json")] if parent.is_dir() else []
    return allowed(path.name, found) if found else f"no model folder lies in {parent}"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar of weights in a test report."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
