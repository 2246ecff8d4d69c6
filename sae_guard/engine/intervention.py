"""An SAE in a model: which activation it reads, and which one its reconstruction replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from sae_guard.errors import LoadError, SetupError
from sae_guard.model import LanguageModel
from sae_guard.sae import SAE


@dataclass(frozen=True)
class HookSite:
    """Hook point that an SAE reads, and the one that it replaces; a transcoder has two of them."""

    read: str
    replaced: str

    @classmethod
    def from_sae(cls, sae: SAE, hook: str, hook_out: str | None) -> HookSite:
        """Return the site of an SAE.

        Args:
            sae: Loaded SAE.
            hook: Hook point that it reads, and replaces unless it is a transcoder.
            hook_out: Hook point that a transcoder replaces; None for other SAEs.

        Raises:
            LoadError: A transcoder without ``hook_out``, or ``hook_out`` for another SAE.
        """
        if sae.transcoder and hook_out is None:
            raise LoadError(
                f"{sae.source.path} is a transcoder, which replaces another activation than it "
                f"reads: name that hook point as `hook_out` beside `hook: {hook}`",
                "metadata",
            )
        if hook_out is not None and not sae.transcoder:
            raise LoadError(
                f"{sae.source.path} is no transcoder: it replaces what it reads, but `hook_out: "
                f"{hook_out}` stands beside `hook: {hook}`",
                "metadata",
            )
        return cls(hook, hook_out or hook)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Return the distinct hook points: the one that is read first, the replaced one last."""
        return (self.read,) if self.read == self.replaced else (self.read, self.replaced)

    def clean(
        self, model: LanguageModel, tokens: Int[Tensor, "batch pos"]
    ) -> tuple[
        Float[Tensor, "batch pos vocab"],
        Float[Tensor, "batch pos d_in"],
        Float[Tensor, "batch pos d_out"],
    ]:
        """Run the model clean.

        Returns:
            Logits, the activation that is read, and the activation that is replaced.
        """
        logits, activations = model.logits_and_activations(tokens, *self.hooks)
        return logits, activations[0], activations[-1]

    def check_widths(
        self,
        x: Float[Tensor, "batch pos d_in"],
        y: Float[Tensor, "batch pos d_out"],
        tokens: Int[Tensor, "batch pos"],
        sae: SAE,
    ) -> None:
        """Check that the activations have one vector per token, as wide as the SAE.

        Args:
            x: Activation that is read.
            y: Activation that is replaced.
            tokens: Token ids that were run.
            sae: SAE.

        Raises:
            SetupError: A hook point has no vector per token.
            LoadError: The SAE has another width.
        """
        for value, hook, name in ((x, self.read, "d_in"), (y, self.replaced, "d_out")):
            if value.shape[:2] != tokens.shape or value.ndim != 3:
                raise SetupError(
                    f"{hook} has shape {list(value.shape)}, but an SAE needs one vector per token: "
                    f"[{tokens.shape[0]}, {tokens.shape[1]}, width]; use another hook point"
                )
            if value.shape[-1] != getattr(sae, name):
                raise LoadError(
                    f"{sae.source.path}: the SAE has {name} {getattr(sae, name)}, but {hook} is "
                    f"{value.shape[-1]} wide",
                    "shapes",
                )


class Intervention(NamedTuple):
    """An SAE and the hook points at which it is put into the model."""

    sae: SAE
    hook: str
    """Hook point that the SAE reads, and whose activation the reconstruction replaces."""
    hook_out: str | None = None
    """Hook point that a transcoder replaces instead."""

    @property
    def site(self) -> HookSite:
        """Site of the SAE; raises `LoadError` as `HookSite.from_sae` does."""
        return HookSite.from_sae(self.sae, self.hook, self.hook_out)
