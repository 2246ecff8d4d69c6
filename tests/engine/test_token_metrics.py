"""The token formulas against their slow definitions, and the properties that define them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, find, given
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.engine import token_metrics as f
from sae_guard.testing import logit_pairs, logits


def slow_softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / math.fsum(weights) for w in weights]


def slow_kl(p_logits: Tensor, q_logits: Tensor) -> list[float]:
    """Σ P·(log P − log Q), term by term in Python floats, for a spread that underflows nothing."""
    values = []
    for p_row, q_row in zip(p_logits.tolist(), q_logits.tolist(), strict=True):
        p, q = slow_softmax(p_row), slow_softmax(q_row)
        values.append(math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    return values


def kl(p: Tensor, q: Tensor) -> Tensor:
    return f.kl_divergence(f.log_probs(p), f.log_probs(q))


@given(logit_pairs())
def test_kl_equals_its_slow_definition_in_the_direction_clean_to_patched(
    pair: tuple[Tensor, Tensor],
) -> None:
    assert kl(*pair).tolist() == pytest.approx(slow_kl(*pair), rel=1e-9, abs=1e-12)


def test_kl_has_a_direction() -> None:
    p, q = torch.tensor([[4.0, 0.0]]).double(), torch.tensor([[0.0, 0.0]]).double()
    assert float(kl(p, q)) == pytest.approx(0.6031, abs=1e-4)
    assert float(kl(q, p)) == pytest.approx(1.3250, abs=1e-4)


@given(logit_pairs(spread=1e4), st.sampled_from([torch.float32, torch.float64]))
def test_kl_is_finite_and_not_negative_for_any_spread(
    pair: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    value = kl(pair[0].to(dtype), pair[1].to(dtype))
    assert bool((value >= 0).all())
    assert bool(value.isfinite().all())


@given(logits(spread=1e4), st.sampled_from([torch.float32, torch.float64]))
def test_kl_of_equal_models_is_exactly_zero(x: Tensor, dtype: torch.dtype) -> None:
    assert bool((kl(x.to(dtype), x.to(dtype)) == 0).all())


@given(logit_pairs())
def test_kl_is_zero_only_for_equal_distributions(pair: tuple[Tensor, Tensor]) -> None:
    difference = (f.log_probs(pair[0]).exp() - f.log_probs(pair[1]).exp()).abs().amax(dim=-1)
    # Pinsker: KL ≥ ½·‖P − Q‖₁² ≥ ½·max|P − Q|², up to the rounding of float64 probabilities.
    assert bool((kl(*pair) >= 0.5 * difference**2 - 1e-14).all())


@given(logit_pairs(), st.floats(-100, 100), st.floats(-100, 100))
def test_kl_does_not_see_a_constant_added_to_the_logits(
    pair: tuple[Tensor, Tensor], a: float, b: float
) -> None:
    shifted = kl(pair[0] + a, pair[1] + b)
    assert shifted.tolist() == pytest.approx(kl(*pair).tolist(), rel=1e-6, abs=1e-9)


@given(logit_pairs())
def test_kl_in_float32_is_near_float64(pair: tuple[Tensor, Tensor]) -> None:
    single = kl(pair[0].float(), pair[1].float())
    assert single.tolist() == pytest.approx(kl(*pair).tolist(), rel=2e-5, abs=2e-5)


def test_kl_takes_the_limit_for_tokens_that_both_models_exclude() -> None:
    p = torch.tensor([[0.0, 1.0, -math.inf]]).double()
    q = torch.tensor([[0.5, 0.0, -math.inf]]).double()
    assert kl(p, q).tolist() == pytest.approx(slow_kl(p[:, :2], q[:, :2]), rel=1e-12)
    assert float(kl(p, torch.tensor([[-math.inf, 0.0, 0.0]]).double())) == math.inf


def test_kl_of_nan_is_nan() -> None:
    assert math.isnan(float(kl(torch.tensor([[0.0, math.nan]]), torch.tensor([[0.0, 1.0]]))))


@given(logits(positions=1, vocabulary=5))
def test_log_probs_of_half_precision_logits_are_float32(x: Tensor) -> None:
    half = x.to(torch.bfloat16)
    assert f.log_probs(half).dtype == torch.float32
    assert torch.equal(f.log_probs(half), f.log_probs(half.float()))


@given(logit_pairs())
def test_expected_cross_entropy_is_entropy_plus_kl(pair: tuple[Tensor, Tensor]) -> None:
    log_p, log_q = map(f.log_probs, pair)
    every_target = torch.arange(log_p.shape[-1]).expand(len(log_p), -1)
    ce = torch.stack([f.cross_entropy(log_q, t) for t in every_target.T], dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    expected = (log_p.exp() * ce).sum(dim=-1)
    assert expected.tolist() == pytest.approx(
        (entropy + f.kl_divergence(log_p, log_q)).tolist(), abs=1e-9
    )


@given(logits(vocabulary=6), st.integers(0, 5))
def test_cross_entropy_is_minus_the_log_of_the_target_probability(x: Tensor, token: int) -> None:
    target = torch.full(x.shape[:-1], token)
    slow = [-math.log(slow_softmax(row)[token]) for row in x.tolist()]
    assert f.cross_entropy(f.log_probs(x), target).tolist() == pytest.approx(slow, rel=1e-9)


def test_equal_cross_entropy_does_not_mean_equal_behaviour() -> None:
    """A model can keep its loss on the actual token and change all it says otherwise."""
    target = torch.tensor([0])

    def keeps_ce_but_moves(clean: Tensor) -> bool:
        log_p = f.log_probs(clean)
        log_q = log_p[:, [0, 2, 1]]
        same_loss = torch.equal(f.cross_entropy(log_p, target), f.cross_entropy(log_q, target))
        return same_loss and float(f.kl_divergence(log_p, log_q)) > 0.1

    clean = find(logits(positions=1, vocabulary=3), keeps_ce_but_moves)
    assert float(kl(clean, clean[:, [0, 2, 1]])) > 0.1


def test_a_difference_of_divergences_is_no_divergence() -> None:
    """D(A‖B) − D(C‖B) ≠ D(A‖C): a loss increase is no KL."""

    def differ(three: Tensor) -> bool:
        a, b, c = (f.log_probs(row) for row in three)
        d = f.kl_divergence
        return abs(float(d(a, b) - d(c, b) - d(a, c))) > 0.1

    three = find(logits(positions=3, vocabulary=2), differ)
    assert three.shape == (3, 2)


def test_l0_counts_signed_latents() -> None:
    latents = torch.tensor([[0.0, -0.5, 2.0, -0.0], [0.0, 0.0, 0.0, 1e-30]])
    l0, l1 = (f.LATENTS[name](latents).sum(dim=-1) for name in ("l0", "l1"))
    assert l0.tolist() == [2, 1]
    assert l1.tolist() == pytest.approx([2.5, 1e-30])


@pytest.mark.parametrize("name", f.LATENTS)
def test_the_terms_of_latents_are_zero_for_silent_ones(name: str) -> None:
    """The fast path sums over active latents alone."""
    assert not f.LATENTS[name](torch.tensor([0.0, -0.0])).any()


@given(st.lists(st.floats(-10, 10), min_size=6, max_size=6))
def test_geometry_equals_its_slow_definition(values: list[float]) -> None:
    x, y = values[:3], values[3:]
    length_x, length_y = math.hypot(*x), math.hypot(*y)
    assume(length_x > 1e-3)
    assume(length_y > 1e-3)
    a, b = torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64)
    dot = math.fsum(u * v for u, v in zip(x, y, strict=True))
    assert float(f.squared_distance(a, b)) == pytest.approx(math.dist(x, y) ** 2, abs=1e-12)
    assert float(f.cosine(a, b)) == pytest.approx(dot / length_x / length_y, abs=1e-9)
    assert float(f.l2_ratio(a, b)) == pytest.approx(length_y / length_x)


def test_a_zero_reconstruction_has_no_direction_and_a_zero_activation_no_ratio() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert float(f.cosine(one, zero)) == 0
    assert float(f.l2_ratio(one, zero)) == 0
    assert not math.isfinite(float(f.l2_ratio(zero, one)))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.data())
def test_sums_ignore_what_the_mask_leaves_out(values: list[float], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    expected = math.fsum(v for v, m in zip(values, mask, strict=True) if m)
    padded = torch.tensor([[*values, math.nan, math.inf]], dtype=torch.float64)
    got = f.masked_sums(padded, torch.tensor([[*mask, False, False]]))
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx([expected], abs=1e-12)


def test_a_nan_inside_the_mask_reaches_the_sum() -> None:
    values = torch.tensor([[1.0, math.nan]])
    assert math.isnan(float(f.masked_sums(values, torch.tensor([[True, True]]))))


def test_log_probs_of_a_peaked_distribution_over_many_tokens() -> None:
    logits = torch.randn(16, 50_257, generator=torch.Generator().manual_seed(0)) * 2
    logits[:, 0] += 18
    error = f.log_probs(logits).double() - logits.double().log_softmax(dim=-1)
    assert float(error.mean().abs()) < 1e-6
    assert float(error.abs().max()) < 5e-6
