"""The SAE equals its definition, computed one latent at a time in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sae_guard.sae import SAE
from sae_guard.sae.activations import AbsTopK, Gated, GroupMax, JumpReLU, TanhReLU, TopK
from sae_guard.sae.controls import identity_sae
from sae_guard.testing import saes

Vector = NDArray[np.float64]


def slow_latents(sae: SAE, x: Vector) -> list[float]:
    """Compute the latents of one normalised token by the formulas of the papers."""
    weights = {name: getattr(sae, name).double().numpy() for name in ("W_enc", "b_enc", "W_dec")}
    norms = [math.sqrt(sum(row**2)) for row in weights["W_dec"]]
    rescaled = sae.rescale_by_decoder_norm != "none"
    q: list[float] = []
    for latent in range(sae.d_sae):
        centred = x - sae.b_pre.double().numpy() if sae.b_pre is not None else x
        value = sum(centred * weights["W_enc"][:, latent]) + weights["b_enc"][latent]
        q.append(float(value) * (norms[latent] if rescaled else 1))
    latents = slow_activation(sae, q)
    if sae.rescale_by_decoder_norm == "selection":
        return [value / norm for value, norm in zip(latents, norms, strict=True)]
    return latents


def slow_activation(sae: SAE, q: list[float]) -> list[float]:
    """Compute the latents of one token from its pre-activations."""
    act = sae.activation
    if isinstance(act, TopK):
        largest = sorted(range(sae.d_sae), key=lambda i: q[i])[-act.k :]
        return [max(q[i], 0.0) if i in largest else 0.0 for i in range(sae.d_sae)]
    if isinstance(act, AbsTopK):
        largest = sorted(range(sae.d_sae), key=lambda i: abs(q[i]))[-act.k :]
        return [q[i] if i in largest else 0.0 for i in range(sae.d_sae)]
    if isinstance(act, GroupMax):
        size = sae.d_sae // act.k
        groups = [q[at : at + size] for at in range(0, sae.d_sae, size)]
        return [max(v, 0.0) if v == max(group) else 0.0 for group in groups for v in group]
    if isinstance(act, TanhReLU):
        return [math.tanh(max(v, 0.0)) for v in q]
    if isinstance(act, JumpReLU):
        return [v if v > 0 and v > float(t) else 0.0 for v, t in zip(q, act.threshold, strict=True)]
    if isinstance(act, Gated):
        return [
            max(q[i] * math.exp(act.r_mag[i]) + float(act.b_mag[i]), 0.0)
            if q[i] + float(act.b_gate[i]) > 0
            else 0.0
            for i in range(sae.d_sae)
        ]
    return [max(v, 0.0) for v in q]


def slow_forward(sae: SAE, x: Vector) -> tuple[Vector, list[float]]:
    """Compute the reconstruction and the latents of one token."""
    raw, x = x, x * sae.scale_in
    shift, divisor, factor = 0.0, 1.0, 1.0
    if sae.normalize == "constant_norm_rescale":
        divisor = factor = math.sqrt(sum(x**2)) / math.sqrt(len(x))
    elif sae.normalize == "layer_norm":
        shift = sum(x) / len(x)
        factor = math.sqrt(sum((x - shift) ** 2) / (len(x) - 1))
        divisor = factor + 1e-5
    latents = slow_latents(sae, (x - shift) / divisor)
    W_dec = sae.W_dec.double().numpy()
    total = sae.b_dec.double().numpy().copy()
    for latent, value in enumerate(latents):
        if sae.rescale_by_decoder_norm == "latents":
            value /= math.sqrt(sum(W_dec[latent] ** 2))
        if sae.latent_scale is not None:
            value *= float(sae.latent_scale[latent])
        total += value * W_dec[latent]
    if sae.denormalize:
        total = total * factor + shift
    total /= sae.scale_out
    if sae.W_skip is not None:
        total += sae.W_skip.double().numpy() @ raw
    return total, latents


tokens = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed)) * 4 + 1
)


@given(saes(transcoders=True), tokens)
def test_the_sae_equals_its_definition(sae: SAE, x: torch.Tensor) -> None:
    reconstruction, latents = sae(x)
    for at in np.ndindex(2, 3):
        expected, expected_latents = slow_forward(sae, x[at].double().numpy())
        np.testing.assert_allclose(latents[at].numpy(), expected_latents, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(reconstruction[at].numpy(), expected, rtol=1e-4, atol=1e-3)


@given(saes(), tokens)
def test_the_output_of_a_token_does_not_depend_on_its_batch(sae: SAE, x: torch.Tensor) -> None:
    one_by_one = torch.stack([sae(token).reconstruction for token in x.view(-1, 6)])
    torch.testing.assert_close(sae(x).reconstruction.flatten(0, 1), one_by_one)
    torch.testing.assert_close(sae(x.flip(1)).latents.flip(1), sae(x).latents)


@given(saes(), tokens)
def test_encode_and_call_give_the_same_latents(sae: SAE, x: torch.Tensor) -> None:
    assert torch.equal(sae.encode(x), sae(x).latents)
    if sae.normalize == "none" and sae.scale_out == 1:
        assert torch.equal(sae.decode(sae.encode(x)), sae(x).reconstruction)


@given(saes(), tokens)
def test_a_copy_on_a_device_has_the_same_outputs_and_identity(sae: SAE, x: torch.Tensor) -> None:
    copy = sae.to("cpu")
    assert torch.equal(copy(x).reconstruction, sae(x).reconstruction)
    assert copy.identity == sae.identity


def test_to_moves_every_tensor_to_the_device() -> None:
    sae = identity_sae(3)
    gated = SAE(
        sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec,
        Gated(torch.zeros(6), torch.zeros(6), torch.zeros(6)), sae.source,
    ).to("meta")  # fmt: skip
    tensors = [*vars(gated).values(), *vars(gated.activation).values()]
    assert {t.device.type for t in tensors if isinstance(t, torch.Tensor)} == {"meta"}
