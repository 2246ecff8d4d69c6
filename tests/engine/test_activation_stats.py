"""Statistics of activations, compared with complete runs of one window at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_guard.cache import Cache
from sae_guard.corpus import Corpus
from sae_guard.engine import activation_stats, batches, measure
from sae_guard.engine.clean_run import CleanRuns
from sae_guard.errors import SetupError
from sae_guard.model import LanguageModel
from tests.helpers.small_measurements import HOOKS, likely_corpus, make_sae


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of two windows, so that the corpus has three."""
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)


@pytest.mark.parametrize("hook", [*HOOKS, "hook_embed"])
@pytest.mark.parametrize("size", [None, 1, 3])
def test_statistics_equal_those_of_complete_runs(
    gpt2: LanguageModel, corpus: Corpus, hook: str, size: int | None, tmp_path: Path
) -> None:
    windows = [gpt2.logits_and_activation(row[None], hook)[1][0] for row in corpus.tokens]
    scored = [x[mask] for x, mask in zip(windows, corpus.scored, strict=True)]
    for cache in (None, Cache(tmp_path), Cache(tmp_path)):
        stats = activation_stats(gpt2, corpus, hook, batch_size=size, cache=cache)
        assert stats.mean.dtype == torch.float64
        torch.testing.assert_close(stats.mean.float(), torch.cat(scored).mean(dim=0))
        torch.testing.assert_close(stats.sample, torch.cat(scored[:2]))


def test_clean_runs_of_a_measurement_are_reused(
    gpt2: LanguageModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = measure(gpt2, make_sae(), corpus, HOOKS[0], cache=Cache(tmp_path))
    assert measurement.provenance.paths["clean run"] == "run, and remembered"
    expected = activation_stats(gpt2, corpus, HOOKS[0])

    def never(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(CleanRuns, "_run", never)
    stats = activation_stats(gpt2, corpus, HOOKS[0], batch_size=2, cache=Cache(tmp_path))
    torch.testing.assert_close(stats.mean, expected.mean)
    torch.testing.assert_close(stats.sample, expected.sample)


def test_unknown_hook_point_is_a_setup_error(gpt2: LanguageModel, corpus: Corpus) -> None:
    with pytest.raises(SetupError, match=r"did you mean blocks\.1\.hook_resid_pre"):
        activation_stats(gpt2, corpus, "blocks.1.hook_resid_prae")
