"""Activation functions equal their definitions, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_guard.sae.activations import AbsTopK, Activation, Gated, GroupMax, JumpReLU, ReLU, TopK

pre_activations = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(seed))
)


@pytest.mark.parametrize("k", [1, 3])
def test_topk_sets_negative_latents_to_zero(k: int) -> None:
    q = torch.tensor([[-1.0, -2.0, 3.0, -0.5]])
    assert TopK(k)(q).tolist() == [[0.0, 0.0, 3.0, 0.0]]


def test_jumprelu_is_zero_at_its_threshold() -> None:
    threshold = torch.tensor([0.5, 0.5])
    q = torch.tensor([0.5, float(np.nextafter(np.float32(0.5), np.float32(1)))])
    assert (JumpReLU(threshold)(q) != 0).tolist() == [False, True]


@given(pre_activations, st.integers(1, 12))
def test_abstopk_keeps_the_k_largest_with_their_signs(q: torch.Tensor, k: int) -> None:
    for token, latents in zip(q.view(-1, 12).tolist(), AbsTopK(k)(q).view(-1, 12), strict=True):
        largest = sorted(range(12), key=lambda i: -abs(token[i]))[:k]
        expected = [value if at in largest else 0.0 for at, value in enumerate(token)]
        assert latents.tolist() == pytest.approx(expected)


@given(pre_activations, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_groupmax_keeps_the_largest_of_each_group(q: torch.Tensor, k: int) -> None:
    size = 12 // k
    for token, latents in zip(q.view(-1, 12).tolist(), GroupMax(k)(q).view(-1, 12), strict=True):
        expected = [0.0] * 12
        for start in range(0, 12, size):
            best = max(range(start, start + size), key=lambda i: token[i])
            expected[best] = max(token[best], 0.0)
        assert latents.tolist() == pytest.approx(expected)


activations = st.sampled_from(
    [
        ReLU(), TopK(3), AbsTopK(3), GroupMax(3), JumpReLU(torch.full((12,), 0.5)),
        Gated(torch.ones(12), torch.zeros(12), torch.zeros(12)),
    ]
)  # fmt: skip


@given(activations, pre_activations)
def test_latents_of_a_token_do_not_depend_on_its_batch(
    activation: Activation, q: torch.Tensor
) -> None:
    one_by_one = torch.stack([activation(token) for token in q.view(-1, 12)]).view_as(q)
    assert torch.equal(activation(q), one_by_one)
