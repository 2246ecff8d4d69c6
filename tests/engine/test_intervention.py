"""The hook points of an SAE must match its kind and its widths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_guard.corpus import Corpus
from sae_guard.engine import measure
from sae_guard.errors import LoadError, SetupError
from sae_guard.model import LanguageModel
from tests.helpers.small_measurements import (
    HOOKS,
    likely_corpus,
    make_sae,
)


@pytest.fixture(scope="module")
def corpus(model_folders: dict[str, Path]) -> Corpus:
    return likely_corpus(model_folders["gpt2"])


def test_hook_points_must_match_the_kind_and_widths_of_the_sae(
    gpt2: LanguageModel, corpus: Corpus
) -> None:
    transcoder = replace(make_sae(), transcoder=True)
    with pytest.raises(LoadError, match=r"test is a transcoder, .* name that hook point as `hook"):
        measure(gpt2, transcoder, corpus, HOOKS[0])
    with pytest.raises(LoadError, match="test is no transcoder"):
        measure(gpt2, make_sae(), corpus, HOOKS[0], hook_out="blocks.1.hook_mlp_out")
    with pytest.raises(SetupError, match=r"no hook point 'blocks\.1\.hook_mlp_ou'"):
        measure(gpt2, transcoder, corpus, HOOKS[0], hook_out="blocks.1.hook_mlp_ou")
    narrow = replace(transcoder, W_dec=torch.zeros(96, 31), b_dec=torch.zeros(31))
    with pytest.raises(LoadError, match=r"d_out 31, but blocks.1.hook_mlp_out is 32 wide"):
        measure(gpt2, narrow, corpus, HOOKS[0], hook_out="blocks.1.hook_mlp_out")
