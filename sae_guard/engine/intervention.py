"""An SAE in a model: where it reads, and where its reconstruction goes."""

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
    """The hook points that an SAE reads and replaces; they are two where it is a transcoder."""

    read: str
    replaced: str

    @classmethod
    def of(cls, sae: SAE, hook: str, hook_out: str | None) -> HookSite:
        """Make the site of an SAE; raise `LoadError` where it is no SAE for such a site."""
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
        """List the hook points, each once: where it reads first, where it writes last."""
        return (self.read,) if self.read == self.replaced else (self.read, self.replaced)

    def clean(
        self, model: LanguageModel, tokens: Int[Tensor, "batch pos"]
    ) -> tuple[
        Float[Tensor, "batch pos vocab"],
        Float[Tensor, "batch pos d_in"],
        Float[Tensor, "batch pos d_out"],
    ]:
        """Run the model clean: logits, the activation that is read, the one that is replaced."""
        logits, activations = model.logits_and_activations(tokens, *self.hooks)
        return logits, activations[0], activations[-1]

    def check_widths(
        self,
        x: Float[Tensor, "batch pos d_in"],
        y: Float[Tensor, "batch pos d_out"],
        tokens: Int[Tensor, "batch pos"],
        sae: SAE,
    ) -> None:
        """Raise unless what is read and what is replaced are as wide as the SAE."""
        for value, hook, name in ((x, self.read, "d_in"), (y, self.replaced, "d_out")):
            if value.shape[:2] != tokens.shape or value.ndim != 3:
                raise SetupError(
                    f"{hook} gives {list(value.shape)}, no activation per token can be replaced"
                )
            if value.shape[-1] != getattr(sae, name):
                raise LoadError(
                    f"{sae.source.path}: the SAE has {name} {getattr(sae, name)}, but {hook} is "
                    f"{value.shape[-1]} wide",
                    "shapes",
                )


class Intervention(NamedTuple):
    """An SAE and where its reconstruction is put."""

    sae: SAE
    hook: str
    """Hook point that it reads, and whose activation the reconstruction replaces."""
    hook_out: str | None = None
    """Hook point that a transcoder replaces instead."""

    @property
    def at(self) -> HookSite:
        """Make its site; raise `LoadError` where it is no SAE for such a site."""
        return HookSite.of(self.sae, self.hook, self.hook_out)
