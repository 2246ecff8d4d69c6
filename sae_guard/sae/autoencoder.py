"""The SAE: weights, encode, decode. Every checkpoint format is loaded into this class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.sae.activations import Activation

Normalize = Literal["none", "constant_norm_rescale", "layer_norm"]
DecoderNorm = Literal["none", "latents", "selection"]

# SAELens's layer_norm adds this to the standard deviation that it divides by.
_EPSILON = 1e-5


class SaeOutput(NamedTuple):
    """Reconstruction and latents of activations."""

    reconstruction: Float[Tensor, "*batch d_out"]
    latents: Float[Tensor, "*batch d_sae"]


class NormalisedInput(NamedTuple):
    """A normalised activation, and how to undo the normalisation: value·length + shift."""

    value: Float[Tensor, "*batch d_in"]
    shift: Float[Tensor, "*batch 1"] | float
    length: Float[Tensor, "*batch 1"] | float


@dataclass(frozen=True)
class SaeSource:
    """The files that an SAE was loaded from, and the facts that they declare."""

    path: str
    format: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Name → sha256 of each file that was read."""
    declared: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the checkpoint declares for its use, such as ``prepend_bos``; JSON values."""
    assumptions: tuple[str, ...] = ()
    """Facts that are not in the files but in the code of the library that wrote them."""


@dataclass(frozen=True, eq=False)
class SAE:
    """One sparse autoencoder or transcoder, with float32 weights that inputs are converted to.

    x̂ = denormalise(f(n·(W_encᵀ(normalise(x) − b_pre) + b_enc)) · t / n · W_dec + b_dec) + W_skip·x

    where f is the activation function, n is 1 or the norm of each latent's decoder row, and t is 1
    or `latent_scale`. Terms with b_pre or W_skip are absent where these are None. The weights are
    those of the checkpoint: no scale or bias is folded into another tensor.
    """

    W_enc: Float[Tensor, "d_in d_sae"] = field(repr=False)
    W_dec: Float[Tensor, "d_sae d_out"] = field(repr=False)
    b_enc: Float[Tensor, " d_sae"] = field(repr=False)
    b_dec: Float[Tensor, " d_out"] = field(repr=False)
    activation: Activation
    source: SaeSource
    b_pre: Float[Tensor, " d_in"] | None = field(default=None, repr=False)
    """Bias that is subtracted from the input; equals b_dec in most SAEs that have it."""
    normalize: Normalize = "none"
    denormalize: bool = True
    """True if the normalisation is undone after the decoder; SAELens's transcoders do not."""
    rescale_by_decoder_norm: DecoderNorm = "none"
    """Use of decoder row norms as factors of the pre-activations. With ``latents`` the factor stays
    in the latents and the decoder divides by it (SAELens's TopK). With ``selection`` it is divided
    out after the activation function, so it affects only which latents are active (OpenMOSS)."""
    latent_scale: Float[Tensor, " d_sae"] | None = field(default=None, repr=False)
    """Factor of each latent before the decoder (from SAELens's finetuning)."""
    scale_in: float = 1.0
    """Factor of the input."""
    scale_out: float = 1.0
    """Divisor of the reconstruction."""
    W_skip: Float[Tensor, "d_out d_in"] | None = field(default=None, repr=False)
    """Skip connection of a skip transcoder: its product with the raw input is added to x̂."""
    transcoder: bool = False
    """True if the SAE reads one hook point and reconstructs another."""

    @property
    def d_in(self) -> int:
        """Width of the activation that is read."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of the activation that is reconstructed."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.W_enc.device

    @property
    def identity(self) -> dict[str, Any]:
        """JSON object that identifies the SAE in the provenance of a measurement."""
        return {
            "path": self.source.path, "format": self.source.format,
            "files": dict(self.source.files), "assumptions": list(self.source.assumptions),
            "architecture": self.activation.architecture, "k": getattr(self.activation, "k", None),
            "d_in": self.d_in, "d_sae": self.d_sae, "d_out": self.d_out,
            "transcoder": self.transcoder, "pre_bias": self.b_pre is not None,
            "normalize": self.normalize, "denormalize": self.denormalize,
            "rescale_by_decoder_norm": self.rescale_by_decoder_norm,
            "latent_scale": self.latent_scale is not None,
            "scale_in": self.scale_in, "scale_out": self.scale_out,
            "skip": self.W_skip is not None,
            **self.source.declared,
        }  # fmt: skip

    def to(self, device: str | torch.device) -> SAE:
        """Return the same SAE on another device."""
        return _to_device(self, device, activation=_to_device(self.activation, device))

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> SaeOutput:
        """Encode and decode activations.

        Args:
            x: Activations at the hook point that the SAE reads, of any dtype.

        Returns:
            Reconstruction and latents, float32.
        """
        x = x.to(self.W_enc.dtype)
        normalised = self.normalise(x)
        latents = self.latents(self.pre_activations(normalised.value))
        return SaeOutput(self.finish(self.decode(latents), x, normalised), latents)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the latents of activations, float32."""
        return self.latents(self.pre_activations(self.normalise(x.to(self.W_enc.dtype)).value))

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Return the decoder's output for latents.

        It is still normalised and scaled, and lacks the skip connection: `finish` does the rest.
        """
        if self.rescale_by_decoder_norm == "latents":
            latents = latents / self.decoder_norms()
        if self.latent_scale is not None:
            latents = latents * self.latent_scale
        return latents @ self.W_dec + self.b_dec

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the L2 norm of each latent's decoder row."""
        norms: Tensor = self.W_dec.norm(dim=-1)
        return norms

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> NormalisedInput:
        """Scale activations by ``scale_in`` and normalise them, before the encoder sees them."""
        x = x * self.scale_in if self.scale_in != 1 else x
        if self.normalize == "constant_norm_rescale":
            # The normalised activation has the norm √d_in.
            length = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return NormalisedInput(x / length, 0.0, length)
        if self.normalize == "layer_norm":
            centred = x - (mean := x.mean(dim=-1, keepdim=True))
            deviation = centred.std(dim=-1, keepdim=True)  # unbiased, as in SAELens
            # Undone by the deviation without the epsilon, as in SAELens.
            return NormalisedInput(centred / (deviation + _EPSILON), mean, deviation)
        return NormalisedInput(x, 0.0, 1.0)

    def pre_activations(
        self, x: Float[Tensor, "*batch d_in"], out: Float[Tensor, "*batch d_sae"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Encode a normalised input, without the activation function: the second step of a call.

        Args:
            x: Output of `normalise`.
            out: Memory for the result.
        """
        centred = x if self.b_pre is None else x - self.b_pre
        return torch.matmul(centred, self.W_enc, out=out).add_(self.b_enc)

    def latents(
        self, q: Float[Tensor, "*batch d_sae"], norms: Float[Tensor, " d_sae"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """Apply the activation function: the third step of a call.

        Args:
            q: Output of `pre_activations`.
            norms: Output of `decoder_norms`, if it was computed before.
        """
        if self.rescale_by_decoder_norm == "none":
            return self.activation(q)
        norms = self.decoder_norms() if norms is None else norms
        latents = self.activation(q * norms)
        return latents / norms if self.rescale_by_decoder_norm == "selection" else latents

    def finish(
        self,
        decoded: Float[Tensor, "*batch d_out"],
        x: Float[Tensor, "*batch d_in"],
        normalised: NormalisedInput,
    ) -> Float[Tensor, "*batch d_out"]:
        """Undo normalisation and scale and add the skip connection: the last step of a call.

        Args:
            decoded: Output of `decode`.
            x: Raw input, in the dtype of the weights.
            normalised: Output of `normalise` for ``x``.
        """
        if self.denormalize:
            decoded = decoded * normalised.length + normalised.shift
        if self.scale_out != 1:
            decoded = decoded / self.scale_out
        return decoded if self.W_skip is None else decoded + x @ self.W_skip.T


_WithTensors = TypeVar("_WithTensors", bound="SAE | Activation")


def _to_device(
    instance: _WithTensors, device: str | torch.device, **replacements: Any
) -> _WithTensors:
    """Return the dataclass with all its tensors on the device, and with other replacements."""
    for name, value in vars(instance).items():
        if isinstance(value, Tensor):
            replacements[name] = value.to(device)
    return replace(instance, **replacements)
