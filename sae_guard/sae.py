"""The canonical SAE: weights, encode, decode. Every checkpoint format ends here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae_guard.activations import Activation, ReLU

Normalize = Literal["none", "constant_norm_rescale", "layer_norm"]

_EPSILON = 1e-5  # of SAELens's layer_norm, added to the standard deviation


class SaeOutput(NamedTuple):
    """What an SAE makes of an activation."""

    reconstruction: Float[Tensor, "*batch d_in"]
    latents: Float[Tensor, "*batch d_sae"]


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
    """One sparse autoencoder; weights in float32, inputs are computed in it.

    x̂ = denormalise(f(s·(W_encᵀ(normalise(x) − b_pre) + b_enc)) / s · W_dec + b_dec), where b_pre is
    b_dec or nothing and s is 1 or the norm of each latent's decoder row.
    """

    W_enc: Float[Tensor, "d_in d_sae"] = field(repr=False)
    W_dec: Float[Tensor, "d_sae d_in"] = field(repr=False)
    b_enc: Float[Tensor, " d_sae"] = field(repr=False)
    b_dec: Float[Tensor, " d_in"] = field(repr=False)
    activation: Activation
    source: SaeSource
    pre_bias: bool = False
    """Whether b_dec is taken off the input."""
    normalize: Normalize = "none"
    rescale_by_decoder_norm: bool = False
    """Whether latents are measured in units of their decoder rows (SAELens TopK)."""
    scale: float = 1.0
    """What the input is multiplied by, and the reconstruction divided by; never folded in."""

    @property
    def d_in(self) -> int:
        """Width of the activation."""
        return self.W_enc.shape[0]

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
            "pre_bias": self.pre_bias,
            "normalize": self.normalize,
            "rescale_by_decoder_norm": self.rescale_by_decoder_norm,
            "scale": self.scale,
            **self.source.declared,
        }

    def to(self, device: str | torch.device) -> SAE:
        """The same SAE on another device."""
        return _moved(self, device, activation=_moved(self.activation, device))

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> SaeOutput:
        """Encode and decode; the normalisation is undone with the input's own statistics."""
        scaled, shift, scale = self._normalise(x.to(self.W_enc.dtype))
        latents = self._latents(scaled)
        return SaeOutput(self.decode(latents) * scale + shift, latents)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Latents of activations."""
        return self._latents(self._normalise(x.to(self.W_enc.dtype))[0])

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstruction, in the normalised space if the SAE normalises its input."""
        if self.rescale_by_decoder_norm:
            latents = latents / self.W_dec.norm(dim=-1)
        return latents @ self.W_dec + self.b_dec

    def _latents(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        q = (x - self.b_dec if self.pre_bias else x) @ self.W_enc + self.b_enc
        return self.activation(q * self.W_dec.norm(dim=-1) if self.rescale_by_decoder_norm else q)

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The input as the encoder takes it, and the shift and scale that undo it."""
        if self.normalize == "constant_norm_rescale":
            length = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return x / length, 0.0, length
        if self.normalize == "layer_norm":
            centred = x - (mean := x.mean(dim=-1, keepdim=True))
            deviation = centred.std(dim=-1, keepdim=True)  # unbiased, as SAELens has it
            return centred / (deviation + _EPSILON), mean, deviation
        return x * self.scale, 0.0, 1 / self.scale


_Fields = TypeVar("_Fields", bound="SAE | Activation")


def _moved(whole: _Fields, device: str | torch.device, **changed: Any) -> _Fields:
    for name, value in vars(whole).items():
        if isinstance(value, Tensor):
            changed[name] = value.to(device)
    return replace(whole, **changed)


def identity_sae(d_in: int) -> SAE:
    """The control that reconstructs every bit: x = max(x, 0) − max(−x, 0), with 2·d_in latents."""
    eye = torch.eye(d_in)
    W_enc = torch.cat([eye, -eye], dim=1)
    return _control("identity", W_enc, W_enc.T.contiguous())


def zero_sae(d_in: int) -> SAE:
    """The control that reconstructs zeros: what zero ablation does, by the path of an SAE."""
    return _control("zero", torch.zeros(d_in, 1), torch.zeros(1, d_in))


def _control(name: str, W_enc: Tensor, W_dec: Tensor) -> SAE:
    return SAE(
        W_enc,
        W_dec,
        b_enc=torch.zeros(W_enc.shape[1]),
        b_dec=torch.zeros(W_enc.shape[0]),
        activation=ReLU(),
        source=SaeSource(path=f"{name} control", format="control"),
    )
