"""What the clean model shows at a hook point, against whole runs one window at a time."""

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
    """Of two windows: three of them."""
    monkeypatch.setattr(batches, "_SHARD_TOKENS", 48)


@pytest.mark.parametrize("hook", [*HOOKS, "hook_embed"])
@pytest.mark.parametrize("size", [None, 1, 3])
def test_it_is_what_whole_runs_show(
    gpt2: LanguageModel, corpus: Corpus, hook: str, size: int | None, tmp_path: Path
) -> None:
    windows = [gpt2.logits_and_activation(row[None], hook)[1][0] for row in corpus.tokens]
    scored = [x[keep] for x, keep in zip(windows, corpus.scored, strict=True)]
    for cache in (None, Cache(tmp_path), Cache(tmp_path)):
        found = activation_stats(gpt2, corpus, hook, batch_size=size, cache=cache)
        assert found.mean.dtype == torch.float64
        torch.testing.assert_close(found.mean.float(), torch.cat(scored).mean(dim=0))
        torch.testing.assert_close(found.some, torch.cat(scored[:2]))


def test_what_a_measurement_left_is_not_run_again(
    gpt2: LanguageModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measure(gpt2, make_sae(), corpus, HOOKS[0], cache=Cache(tmp_path))
    assert measured.provenance.paths["clean run"] == "run, and remembered"
    expected = activation_stats(gpt2, corpus, HOOKS[0])

    def never(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(CleanRuns, "_run", never)
    found = activation_stats(gpt2, corpus, HOOKS[0], batch_size=2, cache=Cache(tmp_path))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.some, expected.some)


def test_a_hook_point_that_is_not_there_is_refused(gpt2: LanguageModel, corpus: Corpus) -> None:
    with pytest.raises(SetupError, match=r"did you mean blocks\.1\.hook_resid_pre"):
        activation_stats(gpt2, corpus, "blocks.1.hook_resid_prae")
