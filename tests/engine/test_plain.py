"""Measurements that take the plain path, the reason they give, and batches that are halved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_guard.corpus import Corpus
from sae_guard.engine import measure, plain
from sae_guard.model import LanguageModel, Suffix
from tests.helpers.small_measurements import (
    RESIDUAL,
    assert_same,
    likely_corpus,
    make_sae,
)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


def test_hook_point_outside_the_blocks_takes_the_plain_path(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    paths = measure(gpt2, make_sae(), corpus, "hook_embed").provenance.paths
    assert paths == {"forward": "whole model", "because": "the hook points are in no block"}


def test_model_whose_blocks_cannot_be_skipped_takes_the_plain_path(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Suffix, *args: Any) -> Tensor:
        raise IndexError("tuple index out of range\nand more")

    monkeypatch.setattr(Suffix, "final_hidden_with", broken)
    mine = measure(gpt2, make_sae(), corpus, RESIDUAL)
    assert mine.provenance.paths["because"] == "IndexError: tuple index out of range"
    assert_same(mine, measure(gpt2, make_sae(), corpus, RESIDUAL, reference=True))


def test_batch_that_runs_out_of_memory_is_halved(
    gpt2: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, original, sizes = (
        measure(gpt2, make_sae(), corpus, RESIDUAL),
        plain.batch,
        list[int](),
    )

    def limited(*arguments: Any, **options: Any) -> plain.Batch:
        rows = arguments[4]
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments, **options)

    monkeypatch.setattr(plain, "batch", limited)
    halved = measure(gpt2, make_sae(), corpus, RESIDUAL, reference=True, batch_size=6)
    assert_same(halved, expected)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
