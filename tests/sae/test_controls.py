"""Controls have the numbers known in advance, and baselines stay comparable to the SAE."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from sae_guard.checkpoints.load import load
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import Corpus, build_corpus
from sae_guard.demo import MODEL, SAES
from sae_guard.engine import Intervention, activation_stats, measure_all
from sae_guard.model import LanguageModel, load_model
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import ReLU
from sae_guard.sae.controls import (
    identity_sae,
    mean_sae,
    permuted_decoder,
    random_directions,
    zero_sae,
)
from sae_guard.sae.sparse_forward import sparse_forward
from sae_guard.specs import load_specs
from sae_guard.testing import saes

SPEC = Path(__file__).parents[2] / "thresholds" / "demo.yaml"

tokens = npst.arrays("float32", (5, 6), elements=st.floats(-9, 9, width=32)).map(torch.tensor)


@given(tokens)
def test_the_identity_reconstructs_every_bit(x: Tensor) -> None:
    assert torch.equal(identity_sae(6)(x).reconstruction, x)


@given(tokens)
def test_zero_and_mean_sae_reconstruct_zeros_and_the_mean(x: Tensor) -> None:
    assert not zero_sae(6)(x).reconstruction.any()
    mean = x.double().mean(dim=0)
    output = mean_sae(mean)(x)
    assert torch.equal(output.reconstruction, mean.float().expand(5, 6))
    assert not output.latents.any()


@given(saes(transcoders=True), st.integers(0, 3))
def test_a_permuted_decoder_has_the_latents_and_row_norms_of_the_sae(sae: SAE, seed: int) -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed))
    permuted = permuted_decoder(sae, seed=seed)
    torch.testing.assert_close(permuted.decoder_norms(), sae.decoder_norms(), rtol=1e-6, atol=0)
    latents, expected = permuted.encode(x), sae.encode(x)
    if sae.rescale_by_decoder_norm == "none":
        assert torch.equal(latents, expected)
    else:  # The latents contain the row norms, which are equal up to rounding.
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(latents != 0, expected != 0)


@given(saes(transcoders=True), st.integers(0, 3))
def test_a_permuted_decoder_gives_each_direction_to_another_latent(sae: SAE, seed: int) -> None:
    directions, permuted = (
        variant.W_dec / variant.decoder_norms()[:, None]
        for variant in (sae, permuted_decoder(sae, seed=seed))
    )
    same = (permuted @ directions.T) > 1 - 1e-5
    assert same.sum(dim=0).tolist() == same.sum(dim=1).tolist() == [1] * sae.d_sae
    assert not same.diagonal().any()


def test_decoder_rows_of_length_zero_are_not_permuted() -> None:
    W_dec = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    sae = SAE(torch.ones(2, 4), W_dec, torch.zeros(4), torch.zeros(2), ReLU(), SaeSource("v", "v"))
    permuted = permuted_decoder(sae)
    assert permuted.W_dec.tolist() == [[0.0, 0.0], [0.0, 3.0], [0.0, 0.0], [2.0, 0.0]]
    assert permuted.source.path == "v, decoder permuted"
    zero = zero_sae(2)
    assert torch.equal(permuted_decoder(zero).W_dec, zero.W_dec)


def activations(n: int = 400, d: int = 16) -> Tensor:
    """Return activations [n, d] with a mean far from 0 and another deviation in each dimension."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator) * torch.linspace(0.2, 3, d) + 5


@pytest.mark.parametrize("k", [1, 3, 8])
def test_random_directions_have_k_active_latents_per_token(k: int) -> None:
    x = activations()
    null = random_directions(x, x.mean(dim=0), d_sae=64, k=k)
    assert (null.encode(x) != 0).sum(dim=-1).tolist() == [k] * len(x)
    assert sparse_forward(null, x).l0.tolist() == [k] * len(x)
    torch.testing.assert_close(null.decoder_norms(), torch.ones(64))
    assert torch.equal(null.W_enc, null.W_dec.T)


def test_the_error_of_random_directions_does_not_depend_on_the_mean() -> None:
    x = activations()
    error, error_of_shifted = (
        random_directions(y, y.mean(dim=0), d_sae=64, k=4)(y).reconstruction - y
        for y in (x, x + 40)
    )
    torch.testing.assert_close(error, error_of_shifted, rtol=1e-3, atol=1e-3)


def test_the_factor_of_random_directions_minimises_their_error() -> None:
    x = activations()
    null = random_directions(x, mean := x.mean(dim=0), d_sae=64, k=6)
    estimate = (null(x).reconstruction - mean).double()

    def error(factor: float) -> float:
        return float((x - mean - factor * estimate).square().sum())

    assert error(1) < min(error(1.01), error(0.99))
    assert error(1) < 0.9 * float((x - mean).square().sum())


def test_random_directions_are_uniform_and_depend_on_the_seed_only() -> None:
    x = activations(d=24)
    directions = [
        random_directions(x, x.mean(dim=0), d_sae=2000, k=2, seed=seed).W_dec for seed in (0, 0, 1)
    ]
    assert torch.equal(directions[0], directions[1])
    assert (directions[0] @ directions[2].T).abs().max() < 1 - 1e-3
    # n·d·‖mean‖² is χ² with d degrees of freedom.
    spread = 2000 * 24 * float(directions[0].mean(dim=0).square().sum()) / 24
    assert abs(spread - 1) < 5 * math.sqrt(2 / 24)


@pytest.fixture(scope="module")
def demo() -> tuple[LanguageModel, Corpus, str]:
    (spec,) = load_specs(SPEC)
    model = load_model(MODEL)
    data = spec.data.model_copy(update={"sequences": 32})
    return model, build_corpus(data, model.tokenizer, SPEC.parent), spec.hook


@pytest.fixture(scope="module")
def measurements(demo: tuple[LanguageModel, Corpus, str]) -> dict[str, Measurement]:
    model, corpus, hook = demo
    stats, v2 = activation_stats(model, corpus, hook), load(SAES / "v2")
    saes_by_name = {
        "v2": v2,
        "identity": identity_sae(v2.d_in),
        "zero": zero_sae(v2.d_in),
        "mean": mean_sae(stats.mean),
        "permuted": permuted_decoder(v2),
        "random": random_directions(stats.sample, stats.mean, d_sae=v2.d_sae, k=16),
    }
    interventions = [Intervention(sae, hook) for sae in saes_by_name.values()]
    measurements = measure_all(model, interventions, corpus, random_error=True)
    return dict(zip(saes_by_name, measurements, strict=True))


def test_controls_of_the_demo_have_their_known_numbers(
    measurements: dict[str, Measurement],
) -> None:
    identity, zero, mean = (measurements[name] for name in ("identity", "zero", "mean"))
    assert (identity["kl"], identity["reconstruction_score"]) == (0.0, 1.0)
    assert identity["explained_variance"] == 1.0
    assert zero["reconstruction_score"] == 0.0
    assert mean["reconstruction_score[mean]"] == pytest.approx(0, abs=1e-6)
    assert mean["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert mean["l0"] == zero["l0"] == 0


def test_the_demo_sae_beats_baselines_with_the_same_l0(
    measurements: dict[str, Measurement],
) -> None:
    v2, permuted, random = (measurements[name] for name in ("v2", "permuted", "random"))
    assert permuted["l0"] == v2["l0"]
    assert permuted.firings.tolist() == v2.firings.tolist()
    assert random["l0"] == 16.0
    for baseline in (permuted, random):
        assert v2["kl"] < 0.2 * baseline["kl"]
        assert v2["reconstruction_score"] > baseline["reconstruction_score"]
        assert v2["explained_variance"] > baseline["explained_variance"]
    # Zero ablation is so harmful here that even random directions score well relative to it.
    assert random["reconstruction_score"] > 0.8


def test_the_error_of_the_demo_sae_harms_more_than_a_random_one(
    measurements: dict[str, Measurement],
) -> None:
    assert 1 < measurements["v2"]["kl_vs_random_error"] < 2
    assert measurements["v2"]["kl_random_error"] < measurements["v2"]["kl"]
