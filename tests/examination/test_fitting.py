"""Statistics of reconstructions equal their definitions, computed slowly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.examination.fitting import (
    compute_fit,
    most_firing,
    share_along_ones,
    share_near_thresholds,
)
from sae_guard.sae.activations import JumpReLU
from tests.helpers.checkpoint_files import example_sae


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_a_fit_equals_its_definitions() -> None:
    y, y_hat = normal(50, 6) + 3, normal(50, 6, seed=1)
    error, mean, mean_hat = y - y_hat, y.mean(dim=0), y_hat.mean(dim=0)
    squared = deviation = 0.0
    for row in range(50):
        squared += float(error[row] @ error[row])
        deviation += float((y[row] - mean) @ (y[row] - mean))
    fit = compute_fit(y, y_hat, 7.0)
    assert fit.explained_variance == pytest.approx(1 - squared / deviation)
    constant = error.mean(dim=0).expand(50, 6)
    assert fit.constant == pytest.approx(float(constant.square().sum()) / squared)
    assert fit.l0 == 7.0
    columns = (y_hat - mean_hat).flatten().unsqueeze(1)
    solution = torch.linalg.lstsq(columns, (y - mean).flatten().unsqueeze(1)).solution
    assert fit.factor == pytest.approx(float(solution))


@given(
    scale=st.floats(0.01, 100), factor=st.floats(0.1, 10), shift=st.floats(-5, 5),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_a_fit_changes_with_factors_and_shifts_as_defined(
    scale: float, factor: float, shift: float, seed: int
) -> None:
    y, y_hat = normal(20, 4, seed=seed), normal(20, 4, seed=seed + 1)
    first = compute_fit(y, y_hat, 1.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    for same in (
        compute_fit(y * scale, y_hat * scale, 1.0),
        compute_fit(y[order], y_hat[order], 1.0),
    ):
        assert same.explained_variance == pytest.approx(first.explained_variance)
        assert same.factor == pytest.approx(first.factor)
        assert same.constant == pytest.approx(first.constant)
    assert compute_fit(y, y_hat * factor, 1.0).factor == pytest.approx(first.factor / factor)
    assert compute_fit(y, y_hat + shift, 1.0).factor == pytest.approx(first.factor)
    assert compute_fit(y, y / factor + shift, 1.0).factor == pytest.approx(factor)
    assert compute_fit(y, y + 1, 1.0).constant == pytest.approx(1)


def test_perfect_and_constant_reconstructions_have_the_extreme_fits() -> None:
    y = normal(10, 3)
    perfect = compute_fit(y, y, 1.0)
    assert (perfect.explained_variance, perfect.factor, perfect.constant) == (1, 1, 0)
    constant = compute_fit(y, torch.ones(10, 3), 0.0)
    assert math.isnan(constant.factor)
    assert constant.explained_variance < 0


def test_the_share_along_ones_equals_its_definition() -> None:
    values = normal(30, 8)
    ones = torch.ones(8, dtype=torch.float64) / 8**0.5
    expected = sum(float(row @ ones) ** 2 for row in values) / float(values.square().sum())
    assert share_along_ones(values) == pytest.approx(expected)
    assert share_along_ones(values - values.mean(dim=1, keepdim=True)) == pytest.approx(
        0, abs=1e-30
    )
    assert share_along_ones(torch.ones(3, 8)) == pytest.approx(1)
    assert share_along_ones(torch.zeros(3, 8)) == 0


def test_latents_near_rounded_thresholds_are_counted() -> None:
    sae = example_sae("jumprelu")
    x = normal(4000, 6, seed=3).float()
    assert share_near_thresholds(sae, x) == 0  # nothing was rounded
    threshold = (normal(10, seed=4).abs() / 4).bfloat16().float()
    rounded = replace(sae, activation=JumpReLU(threshold))
    q = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    n_near = ((q - threshold).abs() <= threshold / 256).sum()
    n_active = ((q > threshold) & (q > 0)).sum()
    assert n_near > 0
    assert share_near_thresholds(rounded, x) == pytest.approx(float(n_near / n_active))
    all_rounded = replace(rounded, W_enc=sae.W_enc.bfloat16().float())
    assert share_near_thresholds(all_rounded, x) == 0
    assert share_near_thresholds(example_sae("topk"), x) == 0


def test_the_most_firing_latents_come_without_dead_ones() -> None:
    assert most_firing(torch.tensor([3, 0, 5, 1]), 2).tolist() == [2, 0]
    assert most_firing(torch.tensor([3, 0, 0, 1]), 4).tolist() == [0, 3]
