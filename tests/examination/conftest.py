"""The token set on which SAEs of the tiny model are examined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sae_guard.corpus import Corpus
    from sae_guard.model import LanguageModel


@pytest.fixture(scope="module")
def corpus(gpt2: LanguageModel) -> Corpus:
    """Return 8 windows of 16 tokens."""
    from sae_guard.corpus import Corpus
    from tests.helpers.tiny_models import TEXT

    return Corpus.from_texts(
        [TEXT * 8, TEXT[20:] * 8], gpt2.tokenizer, context=16, sequences=8, prepend_bos=True
    )
