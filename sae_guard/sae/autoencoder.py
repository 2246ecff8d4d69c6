"""The canonical SAE: weights, encode, decode. Every checkpoint format ends here."""

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

_EPSILON = 1e-5  # of SAELens's layer_norm, added to the standard deviation


class SaeOutput(NamedTuple):
    """What an SAE makes of an activation."""

    reconstruction: Float[Tensor, "*batch d_out"]
    latents: Float[Tensor, "*batch d_sae"]


class Normalised(NamedTuple):
    """An activation as the encoder takes it, and the shift and length that undo it."""

    value: Float[Tensor, "*batch d_in"]
    shift: Float[Tensor, "*batch 1"] | float
    length: Float[Tensor, "*batch 1"] | float


@dataclass(frozen=True)
class SaeSource:
    """Where an SAE comes from and what its checkpoint says of it."""

    path: str
    format: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Name → sha256 of each file that was read."""
    declared: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint's own words that bear on how it is used, such as ``prepend_bos``."""
    assumptions: tuple[str, ...] = ()
    """What the file does not say and the code of its library does."""


@dataclass(frozen=True, eq=False)
class SAE:
    """One sparse autoencoder or transcoder; weights in float32, inputs are computed in it.

    x̂ = denormalise(f(n·(W_encᵀ(normalise(x) − b_pre) + b_enc)) · t / n · W_dec + b_dec) + W_skip·x

    where b_pre and W_skip may be nothing, n is 1 or the norm of each latent's decoder row, and t is
    1 or `latent_scale`. Nothing is ever folded into anything.
    """

    W_enc: Float[Tensor, "d_in d_sae"] = field(repr=False)
    W_dec: Float[Tensor, "d_sae d_out"] = field(repr=False)
    b_enc: Float[Tensor, " d_sae"] = field(repr=False)
    b_dec: Float[Tensor, " d_out"] = field(repr=False)
    activation: Activation
    source: SaeSource
    b_pre: Float[Tensor, " d_in"] | None = field(default=None, repr=False)
    """What is taken off the input: b_dec, in most SAEs that have it."""
    normalize: Normalize = "none"
    denormalize: bool = True
    """Whether the normalisation is undone after the decoder; transcoders of SAELens do not."""
    rescale_by_decoder_norm: DecoderNorm = "none"
    """Where latents are in units of their decoder rows: as given out (SAELens's TopK), or only
    while they are selected (OpenMOSS)."""
    latent_scale: Float[Tensor, " d_sae"] | None = field(default=None, repr=False)
    """What the decoder multiplies latents by (SAELens's finetuning)."""
    scale_in: float = 1.0
    """What the input is multiplied by."""
    scale_out: float = 1.0
    """What the reconstruction is divided by."""
    W_skip: Float[Tensor, "d_out d_in"] | None = field(default=None, repr=False)
    """Of a skip transcoder: takes the raw input past the latents."""
    transcoder: bool = False
    """Whether it reads one hook point and replaces another."""

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
        """Where the weights are."""
        return self.W_enc.device

    @property
    def identity(self) -> dict[str, Any]:
        """What the SAE is, for the provenance."""
        return {
            "path": self.source.path,
            "format": self.source.format,
            "files": dict(self.source.files),
            "assumptions": list(self.source.assumptions),
            "architecture": self.activation.architecture,
            "k": getattr(self.activation, "k", None),
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "d_out": self.d_out,
            "transcoder": self.transcoder,
            "pre_bias": self.b_pre is not None,
            "normalize": self.normalize,
            "denormalize": self.denormalize,
            "rescale_by_decoder_norm": self.rescale_by_decoder_norm,
            "latent_scale": self.latent_scale is not None,
            "scale_in": self.scale_in,
            "scale_out": self.scale_out,
            "skip": self.W_skip is not None,
            **self.source.declared,
        }

    def to(self, device: str | torch.device) -> SAE:
        """The same SAE on another device."""
        return _moved(self, device, activation=_moved(self.activation, device))

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> SaeOutput:
        """Encode and decode; the normalisation is undone with the input's own statistics."""
        x = x.to(self.W_enc.dtype)
        normalised = self.normalise(x)
        latents = self.latents(self.pre_activations(normalised.value))
        return SaeOutput(self.finish(self.decode(latents), x, normalised), latents)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Latents of activations."""
        return self.latents(self.pre_activations(self.normalise(x.to(self.W_enc.dtype)).value))

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction, in the normalised and scaled space, without the skip connection."""
        if self.rescale_by_decoder_norm == "latents":
            latents = latents / self.decoder_norms()
        if self.latent_scale is not None:
            latents = latents * self.latent_scale
        return latents @ self.W_dec + self.b_dec

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Norm of each latent's decoder row."""
        norms: Tensor = self.W_dec.norm(dim=-1)
        return norms

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Normalised:
        """The first step of a call: the input scaled and normalised."""
        x = x * self.scale_in if self.scale_in != 1 else x
        if self.normalize == "constant_norm_rescale":
            length = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return Normalised(x / length, 0.0, length)
        if self.normalize == "layer_norm":
            centred = x - (mean := x.mean(dim=-1, keepdim=True))
            deviation = centred.std(dim=-1, keepdim=True)  # unbiased, as SAELens has it
            return Normalised(centred / (deviation + _EPSILON), mean, deviation)
        return Normalised(x, 0.0, 1.0)

    def pre_activations(
        self, x: Float[Tensor, "*batch d_in"], out: Float[Tensor, "*batch d_sae"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """The second step: what the encoder makes of a normalised input, in ``out`` if given."""
        centred = x if self.b_pre is None else x - self.b_pre
        return torch.matmul(centred, self.W_enc, out=out).add_(self.b_enc)

    def latents(
        self, q: Float[Tensor, "*batch d_sae"], norms: Float[Tensor, " d_sae"] | None = None
    ) -> Float[Tensor, "*batch d_sae"]:
        """The third step: latents of pre-activations; ``norms`` are those of `decoder_norms`."""
        if self.rescale_by_decoder_norm == "none":
            return self.activation(q)
        norms = self.decoder_norms() if norms is None else norms
        latents = self.activation(q * norms)
        return latents / norms if self.rescale_by_decoder_norm == "selection" else latents

    def finish(
        self,
        decoded: Float[Tensor, "*batch d_out"],
        x: Float[Tensor, "*batch d_in"],
        normalised: Normalised,
    ) -> Float[Tensor, "*batch d_out"]:
        """The step after `decode`: undo the normalisation and scale, add the skip connection."""
        if self.denormalize:
            decoded = decoded * normalised.length + normalised.shift
        if self.scale_out != 1:
            decoded = decoded / self.scale_out
        return decoded if self.W_skip is None else decoded + x @ self.W_skip.T


_Fields = TypeVar("_Fields", bound="SAE | Activation")


def _moved(whole: _Fields, device: str | torch.device, **changed: Any) -> _Fields:
    for name, value in vars(whole).items():
        if isinstance(value, Tensor):
            changed[name] = value.to(device)
    return replace(whole, **changed)
