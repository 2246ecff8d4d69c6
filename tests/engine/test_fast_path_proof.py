"""The fast path is rejected where its numbers differ from the plain path's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine import Intervention, measure, measure_all
from sae_guard.engine.sae_run import SaeRun
from sae_guard.model import LanguageModel, Unembedding
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


def test_fast_path_that_differs_is_rejected(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reference = measure(gpt2, make_sae(), corpus, RESIDUAL, reference=True)
    original, cache = Unembedding.logits, Cache(tmp_path)
    monkeypatch.setattr(Unembedding, "logits", lambda self, final: original(self, final) * 1.01)
    for _ in range(2):  # a rejected run is not cached
        measurement = measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache)
        assert_same(measurement, reference)
        assert measurement.provenance.paths["forward"] == "whole model"
        assert measurement.provenance.paths["because"].startswith("kl ")


def test_fast_path_is_rejected_only_for_the_sae_that_differs(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, wrong = SaeRun.take, replace(make_sae(), scale_out=2.0)

    def take(self: SaeRun, rows: slice, losses: Any) -> None:
        original(self, rows, losses)
        if self.sae is wrong:
            self.sums["l1"][rows] += 1

    monkeypatch.setattr(SaeRun, "take", take)
    interventions = [
        Intervention(make_sae(), RESIDUAL),
        Intervention(wrong, RESIDUAL),
        Intervention(make_sae(), MLP),
    ]
    measurements = measure_all(gpt2, interventions, corpus, batch_size=2)
    for intervention, measurement in zip(interventions, measurements, strict=True):
        assert_same(
            measurement, measure(gpt2, intervention.sae, corpus, intervention.hook, reference=True)
        )
    forward = [measurement.provenance.paths["forward"] for measurement in measurements]
    assert forward == ["from block 1 on", "whole model", "from block 1 on"]
