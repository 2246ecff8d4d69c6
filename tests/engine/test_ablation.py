"""Ablations give the same losses with a shared sequence and with runs of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_guard.corpus import Corpus
from sae_guard.engine import ablation, measure
from sae_guard.model import LanguageModel
from tests.helpers.small_measurements import (
    MLP,
    RESIDUAL,
    assert_same,
    likely_corpus,
    make_sae,
)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


@pytest.mark.parametrize("hook", [RESIDUAL, MLP])
def test_shared_and_separate_ablations_give_the_same_numbers(
    gpt2: LanguageModel, corpus: Corpus, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = measure(gpt2, make_sae(), corpus, hook, batch_size=4)
    monkeypatch.setattr(ablation, "_RESIDUAL", ("nothing",))
    separate = measure(gpt2, make_sae(), corpus, hook, batch_size=4)
    assert separate.provenance.paths["ablations"] == "each sequence"
    assert_same(shared, separate)
    monkeypatch.setattr(ablation, "_MAX_PENDING_BYTES", 0)  # repeats clean runs for μ
    assert_same(shared, measure(gpt2, make_sae(), corpus, hook, batch_size=4))
