"""Batches sort their tokens into groups, and skip hook points that do not fire."""

from __future__ import annotations

import pytest
import torch

from sae_guard.corpus import Corpus
from sae_guard.engine import HookSite
from sae_guard.errors import SetupError
from sae_guard.examination.batch import ExaminedBatch
from sae_guard.model import LanguageModel

HOOK = "blocks.1.hook_resid_post"
SITE = HookSite(HOOK, HOOK)


def test_tokens_are_grouped_by_kind_and_position(gpt2: LanguageModel) -> None:
    tokens = torch.randint(1, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = tokens[0, 7] = tokens[1, 39] = 0  # the last position is not scored
    batch = ExaminedBatch.from_corpus(gpt2, Corpus(tokens), SITE)
    groups = {name: mask.nonzero().tolist() for name, mask in batch.groups.items()}
    assert groups == {"bos": [[0, 0]], "first": [[1, 0], [2, 0]], "special": [[0, 7]], "large": []}
    assert int(batch.ordinary.sum()) == 3 * 39 - 4
    excluded = ExaminedBatch.from_corpus(gpt2, Corpus(tokens, frozenset([0])), SITE)
    assert not bool(excluded.groups["bos"].any() | excluded.groups["special"].any())


def test_tokens_of_large_norm_are_a_group(gpt2: LanguageModel) -> None:
    tokens = torch.randint(1, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    batch = ExaminedBatch.from_corpus(gpt2, Corpus(tokens), SITE)
    with torch.inference_mode():
        batch.activations(HOOK)[1, 5] *= 1000
    assert batch.groups["large"].nonzero().tolist() == [[1, 5]]
    assert not bool(batch.ordinary[1, 5])
    assert len(batch.ordinary_activations(HOOK)) == int(batch.ordinary.sum())


def test_hook_points_that_do_not_fire_are_skipped(gpt2: LanguageModel, corpus: Corpus) -> None:
    batch = ExaminedBatch.from_corpus(gpt2, corpus, SITE)
    unused = next(name for name in gpt2.bridge.hook_dict if "hook_q_input" in name)
    assert batch.run_model_where_possible([HOOK, unused]) == [HOOK]
    with pytest.raises(SetupError, match=unused):
        batch.run_model([unused])
    other = ExaminedBatch.from_corpus(gpt2, corpus, SITE)
    assert other.run_model_where_possible([unused]) == []
