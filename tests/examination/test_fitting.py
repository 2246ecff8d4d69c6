"""How reconstructions fit, by slow definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.examination.fitting import along_ones, fit_of, most_firing, near_thresholds
from sae_guard.sae.activations import JumpReLU
from tests.helpers.checkpoint_files import example_sae


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_a_fit_is_what_its_definitions_give() -> None:
    y, y_hat = drawn(50, 6) + 3, drawn(50, 6, seed=1)
    error, mean, mean_hat = y - y_hat, y.mean(dim=0), y_hat.mean(dim=0)
    squared = deviation = 0.0
    for row in range(50):
        squared += float(error[row] @ error[row])
        deviation += float((y[row] - mean) @ (y[row] - mean))
    found = fit_of(y, y_hat, 7.0)
    assert found.explained_variance == pytest.approx(1 - squared / deviation)
    constant = error.mean(dim=0).expand(50, 6)
    assert found.constant == pytest.approx(float(constant.square().sum()) / squared)
    assert found.l0 == 7.0
    columns = (y_hat - mean_hat).flatten().unsqueeze(1)
    solution = torch.linalg.lstsq(columns, (y - mean).flatten().unsqueeze(1)).solution
    assert found.factor == pytest.approx(float(solution))


@given(
    scale=st.floats(0.01, 100), factor=st.floats(0.1, 10), shift=st.floats(-5, 5),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_what_changes_a_fit(scale: float, factor: float, shift: float, seed: int) -> None:
    y, y_hat = drawn(20, 4, seed=seed), drawn(20, 4, seed=seed + 1)
    first = fit_of(y, y_hat, 1.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    for same in (fit_of(y * scale, y_hat * scale, 1.0), fit_of(y[order], y_hat[order], 1.0)):
        assert same.explained_variance == pytest.approx(first.explained_variance)
        assert same.factor == pytest.approx(first.factor)
        assert same.constant == pytest.approx(first.constant)
    assert fit_of(y, y_hat * factor, 1.0).factor == pytest.approx(first.factor / factor)
    assert fit_of(y, y_hat + shift, 1.0).factor == pytest.approx(first.factor)
    assert fit_of(y, y / factor + shift, 1.0).factor == pytest.approx(factor)
    assert fit_of(y, y + 1, 1.0).constant == pytest.approx(1)


def test_fits_at_their_limits() -> None:
    y = drawn(10, 3)
    perfect = fit_of(y, y, 1.0)
    assert (perfect.explained_variance, perfect.factor, perfect.constant) == (1, 1, 0)
    constant = fit_of(y, torch.ones(10, 3), 0.0)
    assert math.isnan(constant.factor)
    assert constant.explained_variance < 0


def test_the_share_along_ones() -> None:
    values = drawn(30, 8)
    ones = torch.ones(8, dtype=torch.float64) / 8**0.5
    expected = sum(float(row @ ones) ** 2 for row in values) / float(values.square().sum())
    assert along_ones(values) == pytest.approx(expected)
    assert along_ones(values - values.mean(dim=1, keepdim=True)) == pytest.approx(0, abs=1e-30)
    assert along_ones(torch.ones(3, 8)) == pytest.approx(1)
    assert along_ones(torch.zeros(3, 8)) == 0


def test_latents_near_thresholds_that_were_rounded() -> None:
    sae = example_sae("jumprelu")
    x = drawn(4000, 6, seed=3).float()
    assert near_thresholds(sae, x) == 0  # nothing was rounded
    threshold = (drawn(10, seed=4).abs() / 4).bfloat16().float()
    rounded = replace(sae, activation=JumpReLU(threshold))
    q = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    near = ((q - threshold).abs() <= threshold / 256).sum()
    active = ((q > threshold) & (q > 0)).sum()
    assert near > 0
    assert near_thresholds(rounded, x) == pytest.approx(float(near / active))
    everything = replace(rounded, W_enc=sae.W_enc.bfloat16().float())
    assert near_thresholds(everything, x) == 0
    assert near_thresholds(example_sae("topk"), x) == 0


def test_the_latents_that_fire_most() -> None:
    assert most_firing(torch.tensor([3, 0, 5, 1]), 2).tolist() == [2, 0]
    assert most_firing(torch.tensor([3, 0, 0, 1]), 4).tolist() == [0, 3]
