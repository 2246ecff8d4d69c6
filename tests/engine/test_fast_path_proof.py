"""The fast path gives way where it differs from the plain one."""

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


def test_what_differs_from_the_plain_path_gives_way_to_it(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reference = measure(gpt2, make_sae(), corpus, RESIDUAL, reference=True)
    right, cache = Unembedding.logits, Cache(tmp_path)
    monkeypatch.setattr(Unembedding, "logits", lambda self, final: right(self, final) * 1.01)
    for _ in range(2):  # what was given up is not remembered
        mine = measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache)
        assert_same(mine, reference)
        assert mine.provenance.paths["forward"] == "whole model"
        assert mine.provenance.paths["because"].startswith("kl ")


def test_of_several_only_what_differs_gives_way(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = SaeRun.take, replace(make_sae(), scale_out=2.0)

    def take(self: SaeRun, rows: slice, losses: Any) -> None:
        right(self, rows, losses)
        if self.sae is wrong:
            self.sums["l1"][rows] += 1

    monkeypatch.setattr(SaeRun, "take", take)
    patches = [
        Intervention(make_sae(), RESIDUAL),
        Intervention(wrong, RESIDUAL),
        Intervention(make_sae(), MLP),
    ]
    found = measure_all(gpt2, patches, corpus, batch_size=2)
    for patch, measurement in zip(patches, found, strict=True):
        assert_same(measurement, measure(gpt2, patch.sae, corpus, patch.hook, reference=True))
    forward = [measurement.provenance.paths["forward"] for measurement in found]
    assert forward == ["from block 1 on", "whole model", "from block 1 on"]
