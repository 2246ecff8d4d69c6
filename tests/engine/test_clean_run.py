"""SAEs that are measured on the same windows share one clean run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine import Intervention, measure, measure_all
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.engine.memory import Memory
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


@pytest.mark.parametrize(
    "hooks", [[RESIDUAL, RESIDUAL], [RESIDUAL, MLP, "blocks.2.hook_resid_post"]]
)
def test_several_saes_share_one_clean_run_and_keep_their_numbers(
    gpt2: LanguageModel, corpus: Corpus, hooks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interventions = [
        Intervention(replace(make_sae(), scale_out=i + 1.0), hook) for i, hook in enumerate(hooks)
    ]
    single = [
        measure(gpt2, intervention.sae, corpus, intervention.hook) for intervention in interventions
    ]
    original, runs = CleanRuns._run, []

    def run(self: CleanRuns, rows: slice, *arguments: Any, **options: Any) -> Any:
        runs.append(rows)
        return original(self, rows, *arguments, **options)

    monkeypatch.setattr(CleanRuns, "_run", run)
    for mine, theirs in zip(
        measure_all(gpt2, interventions, corpus, batch_size=3), single, strict=True
    ):
        assert_same(mine, theirs)
        assert mine.provenance.hook == theirs.provenance.hook
    comparisons = [slice(0, 2)] * len(hooks)
    assert sorted(map(str, runs)) == sorted(map(str, [slice(0, 3), slice(3, 6), *comparisons]))


def test_the_cache_makes_room_for_all_bytes_of_a_clean_prediction(
    gpt2: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    clean_runs = CleanRuns(gpt2, corpus, Memory.from_cache(cache, gpt2, corpus), [RESIDUAL])
    shard_tokens = clean_runs.size * corpus.tokens.shape[1]
    per_token = clean_runs._missing_bytes(["head"]) / shard_tokens
    measure(gpt2, make_sae(), corpus, RESIDUAL, cache=cache)
    (file,) = tmp_path.rglob("clean/head/*.safetensors")
    tensors = load_file(file).values()
    assert per_token == sum(tensor[0].nbytes for tensor in tensors)
