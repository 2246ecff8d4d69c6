"""Controls: what is known of them beforehand, and what baselines keep of what they are made of."""

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
from sae_guard.sae.sparse_forward import code
from sae_guard.specs import load_specs
from sae_guard.testing import saes

SPEC = Path(__file__).parents[2] / "thresholds" / "demo.yaml"

tokens = npst.arrays("float32", (5, 6), elements=st.floats(-9, 9, width=32)).map(torch.tensor)


@given(tokens)
def test_the_identity_keeps_every_bit(x: Tensor) -> None:
    assert torch.equal(identity_sae(6)(x).reconstruction, x)


@given(tokens)
def test_zero_and_the_mean_give_what_they_are_called(x: Tensor) -> None:
    assert not zero_sae(6)(x).reconstruction.any()
    mean = x.double().mean(dim=0)
    found = mean_sae(mean)(x)
    assert torch.equal(found.reconstruction, mean.float().expand(5, 6))
    assert not found.latents.any()


@given(saes(transcoders=True), st.integers(0, 3))
def test_a_permuted_decoder_keeps_the_latents_and_the_lengths(sae: SAE, seed: int) -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed))
    permuted = permuted_decoder(sae, seed=seed)
    torch.testing.assert_close(permuted.decoder_norms(), sae.decoder_norms(), rtol=1e-6, atol=0)
    mine, theirs = permuted.encode(x), sae.encode(x)
    if sae.rescale_by_decoder_norm == "none":
        assert torch.equal(mine, theirs)
    else:  # lengths are equal but for rounding, and so are latents in units of them
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        assert torch.equal(mine != 0, theirs != 0)


@given(saes(transcoders=True), st.integers(0, 3))
def test_a_permuted_decoder_has_every_direction_once_and_none_in_its_place(
    sae: SAE, seed: int
) -> None:
    directions, moved = (
        each.W_dec / each.decoder_norms()[:, None]
        for each in (sae, permuted_decoder(sae, seed=seed))
    )
    same = (moved @ directions.T) > 1 - 1e-5
    assert same.sum(dim=0).tolist() == same.sum(dim=1).tolist() == [1] * sae.d_sae
    assert not same.diagonal().any()


def test_decoder_rows_without_a_direction_stay_where_they_are() -> None:
    W_dec = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    sae = SAE(torch.ones(2, 4), W_dec, torch.zeros(4), torch.zeros(2), ReLU(), SaeSource("v", "v"))
    permuted = permuted_decoder(sae)
    assert permuted.W_dec.tolist() == [[0.0, 0.0], [0.0, 3.0], [0.0, 0.0], [2.0, 0.0]]
    assert permuted.source.path == "v, decoder permuted"
    assert torch.equal(permuted_decoder(identity := zero_sae(2)).W_dec, identity.W_dec)


def activations(n: int = 400, d: int = 16) -> Tensor:
    """Far from 0, and of unequal spread."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator) * torch.linspace(0.2, 3, d) + 5


@pytest.mark.parametrize("k", [1, 3, 8])
def test_random_directions_have_the_l0_that_is_asked_for(k: int) -> None:
    x = activations()
    null = random_directions(x, x.mean(dim=0), d_sae=64, k=k)
    assert (null.encode(x) != 0).sum(dim=-1).tolist() == [k] * len(x)
    assert code(null, x).l0.tolist() == [k] * len(x)
    torch.testing.assert_close(null.decoder_norms(), torch.ones(64))
    assert torch.equal(null.W_enc, null.W_dec.T)


def test_random_directions_do_not_see_where_activations_are_centred() -> None:
    x = activations()
    here, there = (
        random_directions(y, y.mean(dim=0), d_sae=64, k=4)(y).reconstruction - y
        for y in (x, x + 40)
    )
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


def test_no_other_factor_makes_the_error_of_random_directions_smaller() -> None:
    x = activations()
    null = random_directions(x, mean := x.mean(dim=0), d_sae=64, k=6)
    found = (null(x).reconstruction - mean).double()

    def error(factor: float) -> float:
        return float((x - mean - factor * found).square().sum())

    assert error(1) < min(error(1.01), error(0.99))
    assert error(1) < 0.9 * float((x - mean).square().sum())


def test_random_directions_are_random_and_repeat_themselves() -> None:
    x = activations(d=24)
    drawn = [
        random_directions(x, x.mean(dim=0), d_sae=2000, k=2, seed=seed).W_dec for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] @ drawn[2].T).abs().max() < 1 - 1e-3
    # n·d·‖mean‖² is χ² with d degrees of freedom.
    spread = 2000 * 24 * float(drawn[0].mean(dim=0).square().sum()) / 24
    assert abs(spread - 1) < 5 * math.sqrt(2 / 24)


@pytest.fixture(scope="module")
def demo() -> tuple[LanguageModel, Corpus, str]:
    (spec,) = load_specs(SPEC)
    model = load_model(MODEL)
    data = spec.data.model_copy(update={"sequences": 32})
    return model, build_corpus(data, model.tokenizer, SPEC.parent), spec.hook


@pytest.fixture(scope="module")
def measured(demo: tuple[LanguageModel, Corpus, str]) -> dict[str, Measurement]:
    model, corpus, hook = demo
    seen, v2 = activation_stats(model, corpus, hook), load(SAES / "v2")
    chosen = {
        "v2": v2,
        "identity": identity_sae(v2.d_in),
        "zero": zero_sae(v2.d_in),
        "mean": mean_sae(seen.mean),
        "permuted": permuted_decoder(v2),
        "random": random_directions(seen.some, seen.mean, d_sae=v2.d_sae, k=16),
    }
    patches = [Intervention(sae, hook) for sae in chosen.values()]
    found = measure_all(model, patches, corpus, random_error=True)
    return dict(zip(chosen, found, strict=True))


def test_what_is_known_beforehand_on_the_demo(measured: dict[str, Measurement]) -> None:
    identity, zero, mean = (measured[name] for name in ("identity", "zero", "mean"))
    assert (identity["kl"], identity["reconstruction_score"]) == (0.0, 1.0)
    assert identity["explained_variance"] == 1.0
    assert zero["reconstruction_score"] == 0.0
    assert mean["reconstruction_score[mean]"] == pytest.approx(0, abs=1e-6)
    assert mean["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert mean["l0"] == zero["l0"] == 0


def test_baselines_of_the_demo_are_as_sparse_and_beaten(measured: dict[str, Measurement]) -> None:
    v2, permuted, random = (measured[name] for name in ("v2", "permuted", "random"))
    assert permuted["l0"] == v2["l0"]
    assert permuted.firings.tolist() == v2.firings.tolist()
    assert random["l0"] == 16.0
    for baseline in (permuted, random):
        assert v2["kl"] < 0.2 * baseline["kl"]
        assert v2["reconstruction_score"] > baseline["reconstruction_score"]
        assert v2["explained_variance"] > baseline["explained_variance"]
    # Zero ablation is so bad that nothing but noise scores well beside it.
    assert random["reconstruction_score"] > 0.8


def test_the_error_of_the_demo_does_more_than_a_random_one(
    measured: dict[str, Measurement],
) -> None:
    assert 1 < measured["v2"]["kl_vs_random_error"] < 2
    assert measured["v2"]["kl_random_error"] < measured["v2"]["kl"]
