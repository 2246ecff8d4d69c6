"""Fixtures: tiny models, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sae_guard.model import LanguageModel, load_model
from tests.tiny_models import ARCHITECTURES, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of all tiny models."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_folders(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Path]:
    """Hugging Face folders with random weights, by architecture."""
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
    return load_model(model_folders["gpt2"])
