"""`sparse_forward` equals calling the SAE, at a known cost and in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import AbsTopK, Activation, GroupMax, JumpReLU, ReLU, TopK
from sae_guard.sae.controls import identity_sae
from sae_guard.sae.sparse_forward import SparseForward, Term, sparse_forward
from sae_guard.testing import saes

TOKENS = 7
TERMS: dict[str, Term] = {"l1": torch.abs, "squares": torch.square}
GATHER_UP_TO = [-1.0, 0.25, 1.0]  # never gather, gather some chunks, gather wherever it is exact

tokens = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randn(TOKENS, 6, generator=torch.Generator().manual_seed(seed)) * 4 + 1
)
masks = st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS).map(torch.tensor)


def random_sae(activation: Activation, *, d_in: int = 6, d_sae: int = 64, **fields: Any) -> SAE:
    """Return an SAE with random weights, always the same."""
    generator = torch.Generator().manual_seed(0)
    return SAE(
        torch.randn(d_in, d_sae, generator=generator) / d_in**0.5,
        torch.randn(d_sae, d_in, generator=generator),
        torch.zeros(d_sae),
        torch.randn(d_in, generator=generator),
        activation,
        SaeSource("drawn", "drawn"),
        **fields,
    )


def forward_by_calls(sae: SAE, x: Tensor, scored: Tensor, step: int) -> SparseForward:
    """Compute the output of `sparse_forward` by calling the SAE on ``step`` tokens at a time."""
    outputs = [sae(chunk) for chunk in torch.split(x, step)]
    latents = torch.cat([output.latents for output in outputs])
    return SparseForward(
        torch.cat([output.reconstruction for output in outputs]),
        (latents != 0).sum(dim=-1),
        (latents[scored] != 0).sum(dim=0),
        {name: term(latents.double()).sum(dim=-1) for name, term in TERMS.items()},
    )


def assert_same(output: SparseForward, expected: SparseForward, *, l1: float = 1e-12) -> None:
    """Assert that outputs are equal, reconstructions and sums up to rounding."""
    scale = max(1.0, float(expected.reconstruction.abs().max()))
    torch.testing.assert_close(
        output.reconstruction, expected.reconstruction, rtol=1e-5, atol=1e-5 * scale
    )
    torch.testing.assert_close(output.sums["l1"], expected.sums["l1"], rtol=l1, atol=l1)
    torch.testing.assert_close(output.sums["squares"], expected.sums["squares"], rtol=1e-5, atol=l1)
    assert torch.equal(output.l0, expected.l0)
    assert torch.equal(output.firings, expected.firings)


@given(saes(transcoders=True), tokens, masks, st.integers(1, 100), st.sampled_from(GATHER_UP_TO))
def test_sparse_forward_equals_calling_the_sae(
    sae: SAE, x: Tensor, scored: Tensor, elements: int, gather_up_to: float
) -> None:
    output = sparse_forward(
        sae, x, scored=scored, terms=TERMS, elements=elements, gather_up_to=gather_up_to
    )
    assert_same(output, forward_by_calls(sae, x, scored, max(1, elements // sae.d_sae)))
    assert output.l0.dtype == output.firings.dtype == torch.int64
    assert {sums.dtype for sums in output.sums.values()} == {torch.float64}


@pytest.mark.parametrize(
    "activation",
    [ReLU(), JumpReLU(torch.full((64,), 0.7)), TopK(2), TopK(40), AbsTopK(2), GroupMax(2)],
)
@pytest.mark.parametrize("block", [1, 200, 2**20])
def test_chunks_order_and_scored_mask_do_not_change_a_token(
    activation: Activation, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_guard.sae.sparse_forward._BLOCK", block)
    sae = random_sae(activation)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 6, generator=generator)
    order = torch.randperm(50, generator=generator)
    scored = torch.rand(50, generator=generator) < 0.5
    expected = forward_by_calls(sae, x, scored, 50)
    for elements in (1, 64 * 7, 64 * 49, 64 * 50, 10**9):
        shuffled = sparse_forward(
            sae, x[order], scored=scored[order], terms=TERMS, elements=elements
        )
        back = torch.argsort(order)
        reconstruction, l0 = (column[back] for column in shuffled[:2])
        sums = {name: column[back] for name, column in shuffled.sums.items()}
        assert_same(SparseForward(reconstruction, l0, shuffled.firings, sums), expected, l1=1e-5)
        assert torch.equal(
            sparse_forward(sae, x, elements=elements).firings, (sae(x)[1] != 0).sum(dim=0)
        )


@pytest.mark.parametrize("activation", [ReLU(), TopK(2)])
def test_zero_tokens_and_zero_active_latents_are_allowed(activation: Activation) -> None:
    sae = random_sae(activation)
    assert sparse_forward(sae, torch.zeros(0, 6)).reconstruction.shape == (0, 6)
    silent = replace(sae, b_enc=torch.full((64,), -1e3))
    output = sparse_forward(silent, torch.ones(5, 6), terms=TERMS)
    assert torch.equal(output.reconstruction, sae.b_dec.expand(5, 6))
    assert not any(column.any() for column in (output.l0, output.firings, *output.sums.values()))


def test_the_identity_control_reconstructs_every_bit() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    for gather_up_to in GATHER_UP_TO:
        assert torch.equal(
            sparse_forward(identity_sae(6), x, gather_up_to=gather_up_to).reconstruction, x
        )


@pytest.mark.parametrize("activation", [ReLU(), TopK(2), AbsTopK(2), GroupMax(2)])
def test_nan_inputs_give_the_nans_of_the_sae(activation: Activation) -> None:
    sae, x = random_sae(activation), torch.ones(3, 6)
    x[1, 2] = float("nan")
    output, expected = sparse_forward(sae, x, terms=TERMS), sae(x)
    assert torch.equal(output.reconstruction.isnan(), expected.reconstruction.isnan())
    assert torch.equal(output.l0, (expected.latents != 0).sum(dim=-1))
    assert output.sums["l1"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("rescale", ["none", "latents", "selection"])
@pytest.mark.parametrize("row", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("activation", [ReLU(), TopK(2)])
def test_a_zero_or_nonfinite_row_of_an_inactive_latent_is_not_skipped(
    activation: Activation, row: float, rescale: Any
) -> None:
    sae = random_sae(activation, rescale_by_decoder_norm=rescale)
    sae.b_enc[5] = -1e3
    sae.W_dec[5] = row
    output, expected = sparse_forward(sae, x := torch.ones(3, 6), gather_up_to=1.0), sae(x)
    torch.testing.assert_close(output.reconstruction, expected.reconstruction, equal_nan=True)
    assert torch.equal(output.l0, (expected.latents != 0).sum(dim=-1))


class OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operators that run and the size of the largest tensor that one returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0
        self.operators: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        self.operators.add(func.overloadpacket.__name__)
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_topk_costs_one_encoder_product_and_sorts_nothing() -> None:
    sae = random_sae(TopK(32), d_in=768, d_sae=24_576)
    x = torch.randn(1024, 768, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, OperatorLog() as log:
        output = sparse_forward(sae, x)
    assert counter.get_total_flops() == 2 * 1024 * 768 * 24_576
    assert not log.operators & {"sort", "argsort", "msort", "nonzero", "scatter"}
    assert output.l0.max() <= 32


def test_dense_latents_are_multiplied_and_sparse_latents_gathered() -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    # The decoder costs as much as the encoder, and 0 where rows are gathered.
    encoder, firings = 2 * 64 * 16 * 512, 2 * 64 * 512
    for threshold, expected in ((0.0, 2 * encoder + firings), (3.0, encoder + firings)):
        sae = random_sae(JumpReLU(torch.full((512,), threshold)), d_in=16, d_sae=512)
        with FlopCounterMode(display=False) as counter:
            sparse_forward(sae, x)
        assert counter.get_total_flops() == expected


@pytest.mark.parametrize(
    "activation",
    [
        TopK(16), TopK(2**16), AbsTopK(16), GroupMax(16), ReLU(),
        JumpReLU(torch.full((2**17,), 2.5)),
    ],
)  # fmt: skip
def test_no_tensor_has_more_than_elements_elements(activation: Activation) -> None:
    sae = random_sae(activation, d_in=8, d_sae=2**17, rescale_by_decoder_norm="selection")
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    with OperatorLog() as log:
        sparse_forward(sae, x, elements=2**21)
    assert log.largest == 2**21


def test_the_largest_tensor_does_not_grow_with_the_tokens() -> None:
    sae = random_sae(TopK(16), d_in=8, d_sae=2**17)
    with OperatorLog() as log:
        sparse_forward(sae, torch.randn(4096, 8), elements=2**21)
    assert log.largest == 2**21


def test_decoder_norms_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[SAE] = []
    original = SAE.decoder_norms

    def logged_norms(sae: SAE) -> Tensor:
        calls.append(sae)
        return original(sae)

    monkeypatch.setattr(SAE, "decoder_norms", logged_norms)
    for rescale in ("none", "latents", "selection"):
        calls.clear()
        sae = random_sae(ReLU(), rescale_by_decoder_norm=rescale)
        sparse_forward(sae, torch.randn(50, 6), elements=128)
        assert len(calls) == 1


@given(saes(d_in=6, d_sae=64), tokens, masks, st.sampled_from(GATHER_UP_TO), st.integers(64, 500))
def test_pairs_are_the_active_latents_of_scored_tokens(
    sae: SAE, x: Tensor, scored: Tensor, gather_up_to: float, elements: int
) -> None:
    output = sparse_forward(
        sae, x, scored=scored, gather_up_to=gather_up_to, elements=elements, pairs=True
    )
    step = max(1, elements // sae.d_sae)
    active = torch.cat([sae(chunk).latents != 0 for chunk in torch.split(x, step)])
    expected = (active & scored[:, None]).nonzero()
    assert output.pairs is not None
    assert sorted(output.pairs.T.tolist()) == expected.tolist()
