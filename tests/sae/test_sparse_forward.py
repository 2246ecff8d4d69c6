"""Coding many tokens equals calling the SAE, at a known cost and in bounded memory."""

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
from sae_guard.sae.sparse_forward import Coded, Term, code
from sae_guard.testing import saes

TOKENS = 7
TERMS: dict[str, Term] = {"l1": torch.abs, "squares": torch.square}
WAYS = [-1.0, 0.25, 1.0]  # never gather, gather some chunks, gather wherever it is exact

tokens = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randn(TOKENS, 6, generator=torch.Generator().manual_seed(seed)) * 4 + 1
)
masks = st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS).map(torch.tensor)


def random_sae(activation: Activation, *, d_in: int = 6, d_sae: int = 64, **fields: Any) -> SAE:
    seeded = torch.Generator().manual_seed(0)
    return SAE(
        torch.randn(d_in, d_sae, generator=seeded) / d_in**0.5,
        torch.randn(d_sae, d_in, generator=seeded),
        torch.zeros(d_sae),
        torch.randn(d_in, generator=seeded),
        activation,
        SaeSource("drawn", "drawn"),
        **fields,
    )


def by_calls(sae: SAE, x: Tensor, scored: Tensor, step: int) -> Coded:
    """What `code` gives, from latents of all tokens."""
    outputs = [sae(chunk) for chunk in torch.split(x, step)]
    latents = torch.cat([output.latents for output in outputs])
    return Coded(
        torch.cat([output.reconstruction for output in outputs]),
        (latents != 0).sum(dim=-1),
        (latents[scored] != 0).sum(dim=0),
        {name: term(latents.double()).sum(dim=-1) for name, term in TERMS.items()},
    )


def assert_same(coded: Coded, expected: Coded, *, l1: float = 1e-12) -> None:
    scale = max(1.0, float(expected.reconstruction.abs().max()))
    torch.testing.assert_close(
        coded.reconstruction, expected.reconstruction, rtol=1e-5, atol=1e-5 * scale
    )
    torch.testing.assert_close(coded.sums["l1"], expected.sums["l1"], rtol=l1, atol=l1)
    torch.testing.assert_close(coded.sums["squares"], expected.sums["squares"], rtol=1e-5, atol=l1)
    assert torch.equal(coded.l0, expected.l0)
    assert torch.equal(coded.firings, expected.firings)


@given(saes(transcoders=True), tokens, masks, st.integers(1, 100), st.sampled_from(WAYS))
def test_equals_calling_the_sae(
    sae: SAE, x: Tensor, scored: Tensor, elements: int, gather_up_to: float
) -> None:
    coded = code(sae, x, scored=scored, terms=TERMS, elements=elements, gather_up_to=gather_up_to)
    assert_same(coded, by_calls(sae, x, scored, max(1, elements // sae.d_sae)))
    assert coded.l0.dtype == coded.firings.dtype == torch.int64
    assert {sums.dtype for sums in coded.sums.values()} == {torch.float64}


@pytest.mark.parametrize(
    "activation",
    [ReLU(), JumpReLU(torch.full((64,), 0.7)), TopK(2), TopK(40), AbsTopK(2), GroupMax(2)],
)
@pytest.mark.parametrize("block", [1, 200, 2**20])
def test_neither_chunks_nor_order_nor_scoring_change_a_token(
    activation: Activation, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_guard.sae.sparse_forward._BLOCK", block)
    sae = random_sae(activation)
    seeded = torch.Generator().manual_seed(1)
    x = torch.randn(50, 6, generator=seeded)
    order = torch.randperm(50, generator=seeded)
    scored = torch.rand(50, generator=seeded) < 0.5
    whole = by_calls(sae, x, scored, 50)
    for elements in (1, 64 * 7, 64 * 49, 64 * 50, 10**9):
        shuffled = code(sae, x[order], scored=scored[order], terms=TERMS, elements=elements)
        back = torch.argsort(order)
        reconstruction, l0 = (column[back] for column in shuffled[:2])
        sums = {name: column[back] for name, column in shuffled.sums.items()}
        assert_same(Coded(reconstruction, l0, shuffled.firings, sums), whole, l1=1e-5)
        assert torch.equal(code(sae, x, elements=elements).firings, (sae(x)[1] != 0).sum(dim=0))


@pytest.mark.parametrize("activation", [ReLU(), TopK(2)])
def test_no_tokens_and_no_active_latents(activation: Activation) -> None:
    sae = random_sae(activation)
    assert code(sae, torch.zeros(0, 6)).reconstruction.shape == (0, 6)
    silent = replace(sae, b_enc=torch.full((64,), -1e3))
    coded = code(silent, torch.ones(5, 6), terms=TERMS)
    assert torch.equal(coded.reconstruction, sae.b_dec.expand(5, 6))
    assert not any(column.any() for column in (coded.l0, coded.firings, *coded.sums.values()))


def test_the_identity_control_keeps_every_bit() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    for gather_up_to in WAYS:
        assert torch.equal(code(identity_sae(6), x, gather_up_to=gather_up_to).reconstruction, x)


@pytest.mark.parametrize("activation", [ReLU(), TopK(2), AbsTopK(2), GroupMax(2)])
def test_input_that_is_no_number_stays_none(activation: Activation) -> None:
    sae, x = random_sae(activation), torch.ones(3, 6)
    x[1, 2] = float("nan")
    coded, expected = code(sae, x, terms=TERMS), sae(x)
    assert torch.equal(coded.reconstruction.isnan(), expected.reconstruction.isnan())
    assert torch.equal(coded.l0, (expected.latents != 0).sum(dim=-1))
    assert coded.sums["l1"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("rescale", ["none", "latents", "selection"])
@pytest.mark.parametrize("row", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("activation", [ReLU(), TopK(2)])
def test_a_broken_row_of_a_silent_latent_is_not_passed_over(
    activation: Activation, row: float, rescale: Any
) -> None:
    sae = random_sae(activation, rescale_by_decoder_norm=rescale)
    sae.b_enc[5] = -1e3
    sae.W_dec[5] = row
    coded, expected = code(sae, x := torch.ones(3, 6), gather_up_to=1.0), sae(x)
    torch.testing.assert_close(coded.reconstruction, expected.reconstruction, equal_nan=True)
    assert torch.equal(coded.l0, (expected.latents != 0).sum(dim=-1))


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operators that ran, and the largest tensor that one of them gave."""

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


def test_topk_costs_its_encoder_and_sorts_nothing() -> None:
    sae = random_sae(TopK(32), d_in=768, d_sae=24_576)
    x = torch.randn(1024, 768, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, Watch() as watch:
        coded = code(sae, x)
    assert counter.get_total_flops() == 2 * 1024 * 768 * 24_576
    assert not watch.operators & {"sort", "argsort", "msort", "nonzero", "scatter"}
    assert coded.l0.max() <= 32


def test_dense_latents_are_multiplied_and_sparse_ones_gathered() -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    encoder, counting = 2 * 64 * 16 * 512, 2 * 64 * 512
    for threshold, expected in ((0.0, 2 * encoder + counting), (3.0, encoder + counting)):
        sae = random_sae(JumpReLU(torch.full((512,), threshold)), d_in=16, d_sae=512)
        with FlopCounterMode(display=False) as counter:
            code(sae, x)
        assert counter.get_total_flops() == expected


@pytest.mark.parametrize(
    "activation",
    [
        TopK(16), TopK(2**16), AbsTopK(16), GroupMax(16), ReLU(),
        JumpReLU(torch.full((2**17,), 2.5)),
    ],
)  # fmt: skip
def test_no_tensor_exceeds_the_bound(activation: Activation) -> None:
    sae = random_sae(activation, d_in=8, d_sae=2**17, rescale_by_decoder_norm="selection")
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    with Watch() as watch:
        code(sae, x, elements=2**21)
    assert watch.largest == 2**21


def test_the_bound_does_not_grow_with_the_tokens() -> None:
    sae = random_sae(TopK(16), d_in=8, d_sae=2**17)
    with Watch() as watch:
        code(sae, torch.randn(4096, 8), elements=2**21)
    assert watch.largest == 2**21


def test_decoder_norms_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[SAE] = []
    original = SAE.decoder_norms

    def counted(sae: SAE) -> Tensor:
        calls.append(sae)
        return original(sae)

    monkeypatch.setattr(SAE, "decoder_norms", counted)
    for rescale in ("none", "latents", "selection"):
        calls.clear()
        sae = random_sae(ReLU(), rescale_by_decoder_norm=rescale)
        code(sae, torch.randn(50, 6), elements=128)
        assert len(calls) == 1


@given(saes(d_in=6, d_sae=64), tokens, masks, st.sampled_from(WAYS), st.integers(64, 500))
def test_pairs_are_the_active_latents_of_scored_tokens(
    sae: SAE, x: Tensor, scored: Tensor, gather_up_to: float, elements: int
) -> None:
    coded = code(sae, x, scored=scored, gather_up_to=gather_up_to, elements=elements, pairs=True)
    step = max(1, elements // sae.d_sae)
    active = torch.cat([sae(chunk).latents != 0 for chunk in torch.split(x, step)])
    expected = (active & scored[:, None]).nonzero()
    assert coded.pairs is not None
    assert sorted(coded.pairs.T.tolist()) == expected.tolist()
