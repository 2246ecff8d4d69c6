"""Losses from final hidden states, compared with their definition in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_guard.engine import head
from sae_guard.engine.token_metrics import LOSSES, Loss, ModelRun, Predictions
from sae_guard.model import Unembedding

TOKENS = 40


def make(
    seed: int, width: int, vocabulary: int, scale: float, *, shift: float = 0.0
) -> tuple[Unembedding, Tensor, Tensor]:
    """Make a linear unembedding with logits of about ``scale``, final hidden states and targets."""
    generator = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(width, vocabulary)
    with torch.no_grad():
        module.weight.copy_(torch.randn(vocabulary, width, generator=generator) * scale)
        module.weight += shift
        module.bias.copy_(torch.randn(vocabulary, generator=generator))
    bridge = SimpleNamespace(
        unembed=_Bridge(module),
        original_model=SimpleNamespace(config=SimpleNamespace()),
        cfg=SimpleNamespace(d_vocab=vocabulary),
    )
    final = torch.randn(TOKENS, width, generator=generator) / width**0.5
    return (
        Unembedding.from_bridge(bridge, "made up"),
        final,
        torch.randint(vocabulary, (TOKENS,), generator=generator),
    )


class _Bridge:
    """Stub of the parts of TransformerLens's unembedding that are used."""

    def __init__(self, module: torch.nn.Linear) -> None:
        self.W_U, self.b_U = module.weight.T, module.bias
        self._module = module

    def __call__(self, final: Tensor) -> Tensor:
        result: Tensor = self._module(final)
        return result


def patched(final: Tensor) -> tuple[ModelRun, Tensor]:
    return "patched run", final


def exact(unembedding: Unembedding, final: Tensor) -> Tensor:
    logits = final.double() @ unembedding.weight.double().T + unembedding.bias.double()
    return logits.log_softmax(dim=-1)


@given(
    seed=st.integers(0, 2**16),
    width=st.integers(1, 32),
    vocabulary=st.integers(2, 400),
    scale=st.sampled_from([0.01, 1.0, 5.0, 30.0]),
    nearness=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
)
def test_losses_from_states_and_summaries_equal_the_definition(
    seed: int, width: int, vocabulary: int, scale: float, nearness: float
) -> None:
    unembedding, p, target = make(seed, width, vocabulary, scale)
    q = p + nearness * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + 1))
    log_p, log_q = exact(unembedding, p), exact(unembedding, q)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    at = torch.arange(TOKENS), target
    for clean in (head.FinalStates(p), head.summarise(unembedding, p, target)):
        losses = head.losses(unembedding, clean, [patched(q), patched(p)], target)
        (mine, ce), (nothing, same) = ((run["kl"], run["ce_patched"]) for run in losses.replaced)
        # Rounding of float32 logits as large as these.
        per_token = 1e-4 * max(1.0, scale / 5)
        for value, expected in (
            (mine, kl),
            (ce, -log_q[at]),
            (losses.clean["ce_clean"], -log_p[at]),
        ):
            torch.testing.assert_close(value.double(), expected, atol=per_token, rtol=1e-5)
        # The mean, of up to hundreds of nats, is rounded to float32 as well.
        large = max(10.0, 2 * scale, 5 * float(kl.mean()))
        assert float((mine.double() - kl).mean().abs()) < 1e-6 * large
        assert bool((mine >= 0).all())
        torch.testing.assert_close(nothing, torch.zeros_like(nothing), atol=per_token / 10, rtol=0)
        torch.testing.assert_close(same.double(), -log_p[at], atol=per_token, rtol=1e-5)


@pytest.mark.parametrize("summary", [False, True])
def test_losses_do_not_depend_on_the_chunks(
    monkeypatch: pytest.MonkeyPatch, *, summary: bool
) -> None:
    unembedding, p, target = make(0, 16, 100, 2.0)

    def losses() -> head.Losses:
        clean = head.summarise(unembedding, p, target) if summary else head.FinalStates(p)
        return head.losses(unembedding, clean, [patched(p + 0.1)], target)

    unchunked = losses()
    monkeypatch.setattr(head, "_MIN_TOKENS", 1)
    monkeypatch.setattr(head, "_ELEMENTS", 700)
    chunked = losses()
    # Chunks of another shape sum float32 products in another order.
    torch.testing.assert_close(chunked.replaced[0], unchunked.replaced[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chunked.clean, unchunked.clean, atol=1e-5, rtol=1e-5)


def test_a_bias_and_a_shift_of_all_rows_change_no_divergence() -> None:
    """A constant added to all logits of a token changes no distribution."""
    (plain, p, target), (shifted, _, _) = (make(3, 16, 50, 1.0, shift=s) for s in (0.0, 3.0))
    q = p + 0.3
    kl = [
        head.losses(u, head.summarise(u, p, target), [patched(q)], target).replaced[0]["kl"]
        for u in (plain, shifted)
    ]
    torch.testing.assert_close(kl[0], kl[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_states_give_non_finite_losses_of_their_token(value: float) -> None:
    unembedding, p, target = make(0, 16, 100, 2.0)
    q = p.clone()
    q[3, 2] = value
    for clean in (head.FinalStates(p), head.summarise(unembedding, p, target)):
        (values,) = head.losses(unembedding, clean, [patched(q)], target).replaced
        kl, ce = values["kl"], values["ce_patched"]
        assert not bool(kl[3].isfinite())
        assert not bool(ce[3].isfinite())
        assert bool(kl[:3].isfinite().all())


def test_shared_states_are_scored_with_the_targets_of_each_sequence() -> None:
    unembedding, p, _ = make(0, 16, 100, 2.0)
    target = torch.randint(100, (5, TOKENS), generator=torch.Generator().manual_seed(1))
    shared = head.shared_cross_entropy(unembedding, p, target)
    for row, expected in zip(target, shared, strict=True):
        torch.testing.assert_close(head.cross_entropy(unembedding, p, row), expected)


def test_loss_without_a_summary_formula_uses_the_final_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert head.summary_suffices()

    def reversed_kl(predictions: Predictions) -> Tensor:
        q = predictions.log_q.exp()
        return (q * (predictions.log_q - predictions.log_p)).sum(dim=-1)

    more: dict[ModelRun, dict[str, Loss]] = {
        "patched run": {**LOSSES["patched run"], "reversed_kl": reversed_kl}
    }
    monkeypatch.setattr(head, "LOSSES", {**LOSSES, **more})
    assert not head.summary_suffices()
    unembedding, p, target = make(0, 16, 100, 2.0)
    log_p, log_q = exact(unembedding, p), exact(unembedding, q := p + 0.1)
    (values,) = head.losses(unembedding, head.FinalStates(p), [patched(q)], target).replaced
    expected = (log_q.exp() * (log_q - log_p)).sum(dim=-1)
    torch.testing.assert_close(values["reversed_kl"].double(), expected, atol=1e-4, rtol=1e-4)
