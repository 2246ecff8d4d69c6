"""Fixtures: tiny models, made once per session.

pytest imports this file in every run of the repository, the gate's own included, so what is slow
to import is imported where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sae_guard.model import LanguageModel


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of all tiny models."""
    from tests.helpers.tiny_models import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def model_folders(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Path]:
    """Hugging Face folders with random weights, by architecture."""
    import torch

    from tests.helpers.tiny_models import ARCHITECTURES

    folders = {}
    for name, build in ARCHITECTURES.items():
        torch.manual_seed(0)
        folder = folders[name] = tmp_path_factory.mktemp("models") / name
        build().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def gpt2(model_folders: dict[str, Path]) -> LanguageModel:
    """The tiny GPT-2, loaded."""
    from sae_guard.model import load_model

    return load_model(model_folders["gpt2"])
