"""Ablations are the same however they are run."""

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
def test_ablations_do_not_depend_on_how_they_are_run(
    gpt2: LanguageModel, corpus: Corpus, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = measure(gpt2, make_sae(), corpus, hook, batch_size=4)
    monkeypatch.setattr(ablation, "_RESIDUAL", ("nothing",))
    alone = measure(gpt2, make_sae(), corpus, hook, batch_size=4)
    assert alone.provenance.paths["ablations"] == "each sequence"
    assert_same(shared, alone)
    monkeypatch.setattr(ablation, "_KEPT_BYTES", 0)  # the prefix runs again for μ
    assert_same(shared, measure(gpt2, make_sae(), corpus, hook, batch_size=4))
