"""Verdicts on shares of dead and dense latents, and the tokens that they need."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from sae_guard.core.measurement import Measurement, Provenance
from sae_guard.core.metrics import COLUMNS, METRICS
from sae_guard.core.thresholds import Threshold
from sae_guard.core.verdicts import judge, marginal_latents, too_few_tokens
from sae_guard.corpus import build_corpus
from sae_guard.demo import HELD_OUT, HOOK_NAME, MODEL
from sae_guard.model import load_model
from sae_guard.specs import read_data

TOKENS = 20_000


def measured(firings: Any, tokens: int = TOKENS) -> Measurement:
    """Four sequences."""
    sums = {name: np.ones(4) for name in COLUMNS} | {"n_tokens": np.full(4, tokens / 4)}
    provenance = Provenance(
        model={}, checkpoint={}, corpus={"n_sequences": 4}, hook="h", mean_sha256="",
        formula_versions={}, versions={}, device="cpu",
    )  # fmt: skip
    return Measurement(np.arange(4), sums, np.array(firings, dtype=np.int64), provenance)


@given(npst.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1)), st.integers(1, 50))
def test_latents_that_fired_once_bound_those_still_alive(f: NDArray[np.float64], n: int) -> None:
    """Compare the expected numbers for latents that fire on each token with frequencies f."""
    once = (n * f * (1 - f) ** (n - 1)).sum()
    woken = ((1 - f) ** n * (1 - (1 - f) ** n)).sum()
    assert woken <= once + 1e-12


@given(
    st.lists(st.sampled_from([0, 0, 1, 2, 900]), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.02, 0.1, 0.25, 0.5, 0.9]),
)
def test_a_share_that_more_tokens_could_bring_down_is_no_verdict(
    firings: list[int], bound: float
) -> None:
    silent = sum(firing == 0 for firing in firings) / len(firings)
    asleep = (firings.count(0) - firings.count(1)) / len(firings)
    verdict = judge(measured(firings), Threshold("dead_latents", max=bound))
    assert (verdict.status == "pass") == (silent <= bound)
    assert (verdict.status == "fail") == (silent > bound and asleep > bound)
    if verdict.status == "error":
        assert verdict.cause == "setup"
        assert "dead_latents needs 40,000 scored tokens, 20,000 were measured" in verdict.message


def test_the_message_states_tokens_and_latents() -> None:
    few = too_few_tokens(measured([0] * 3 + [1] * 2 + [5] * 45), "dead_latents", 0.05)
    assert few == (
        "dead_latents needs 40,000 scored tokens, 20,000 were measured: 3 of 50 latents are "
        "silent, which is more than 0.05 of them, but 2 fired only once, and as many silent ones "
        "may fire on as many tokens again: raise `sequences` to 8 in the spec"
    )


@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"dead_latents"}))
def test_other_metrics_need_no_more_tokens(name: str) -> None:
    assert too_few_tokens(measured([0, 1]), name, 0.0) is None
    assert too_few_tokens(measured([0, 1]), "dead_latents", None) is None


@given(
    st.lists(st.integers(1_900, 2_100), min_size=1, max_size=10),
    st.sampled_from([0.1, 0.3, 0.5, 0.9]),
)
@example([1_990, 5], 0.5)
def test_a_dense_share_is_marginal_within_two_standard_errors(
    firings: list[int], bound: float
) -> None:
    two_errors = 2 * math.sqrt(0.1 * 0.9 / TOKENS)
    lowest = sum(firing / TOKENS > 0.1 + two_errors for firing in firings) / len(firings)
    highest = sum(firing / TOKENS > 0.1 - two_errors for firing in firings) / len(firings)
    reason = marginal_latents(measured(firings), "dense_latents", bound)
    assert bool(reason) == (lowest <= bound < highest)
    verdict = judge(measured(firings), Threshold("dense_latents", max=bound))
    dense = sum(firing / TOKENS > 0.1 for firing in firings) / len(firings)
    assert verdict.status == ("pass" if dense <= bound else "fail")
    assert bool(verdict.marginal) == (bool(reason) or dense == bound)


def test_a_marginal_share_states_the_ambiguous_latents() -> None:
    firings = [1_950, 1_990, 2_010, 3_000, *[5] * 6]
    assert marginal_latents(measured(firings), "dense_latents", 0.2) == (
        "within what 3 latents decide that fire on 10% ± 0.42%"
    )
    assert marginal_latents(measured(firings), "dense_latents", 0.05) == ""
    assert marginal_latents(measured(firings), "dead_latents", 0.2) == ""


def test_the_bound_on_live_latents_holds_on_real_activations() -> None:
    """A TopK dictionary of random directions, some of which are rare in the demo's text."""
    model = load_model(MODEL)
    block = {"jsonl": str(HELD_OUT), "sequences": 256, "prepend_bos": True}
    corpus = build_corpus(read_data(block), model.tokenizer, Path.cwd())
    activations = [
        model.activations(corpus.tokens[at : at + 32], HOOK_NAME) for at in range(0, 256, 32)
    ]
    x = torch.cat([activation[HOOK_NAME] for activation in activations])
    centred = x - x[corpus.scored].mean(dim=0)
    generator = torch.Generator().manual_seed(0)
    drawn = centred[corpus.scored]
    directions = drawn[torch.randint(len(drawn), (4096,), generator=generator)]
    directions = torch.nn.functional.normalize(directions, dim=1)
    halves = []
    for half in (slice(0, 128), slice(128, 256)):
        top = (centred[half][corpus.scored[half]] @ directions.T).topk(4, dim=1).indices
        halves.append(torch.bincount(top.flatten(), minlength=4096).numpy())
    first, second = halves
    silent, once = int((first == 0).sum()), int((first == 1).sum())
    woken = int(((first == 0) & (second > 0)).sum())
    assert 0 < woken <= once
    # All tokens keep the bound; half of them give no verdict rather than a wrong failure.
    bound = (silent - woken) / 4096
    n = int(corpus.scored[:128].sum())
    assert judge(measured(first, n), Threshold("dead_latents", max=bound)).status == "error"
    everything = judge(measured(first + second, 2 * n), Threshold("dead_latents", max=bound))
    assert everything.status == "pass"
