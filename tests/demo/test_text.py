"""The demo's text is the same on every machine, apart from the training text, of known entropy."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from sae_guard.checkpoints.load import load
from sae_guard.corpus import Corpus, build_corpus
from sae_guard.demo import CONTEXT_SIZE, HELD_OUT, MODEL, SAES, held_out_texts
from sae_guard.demo.language import pieces, surprisals
from sae_guard.demo.text import (
    HELD_OUT_DOCUMENTS,
    TRAINING_DOCUMENTS,
    documents,
    held_out_documents,
    json_line,
)
from sae_guard.engine import measure
from sae_guard.model import LanguageModel, load_model
from sae_guard.specs import load_specs

SPEC = Path(__file__).parents[2] / "thresholds" / "demo.yaml"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(MODEL)


def test_the_shipped_text_is_drawn_again_on_this_machine() -> None:
    text = "".join(map(json_line, held_out_documents()))
    assert HELD_OUT.read_text(encoding="utf-8") == text


def test_there_are_documents_of_several_sources_and_lengths() -> None:
    rows = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == HELD_OUT_DOCUMENTS >= 1200
    assert [row["text"] for row in rows] == held_out_texts()
    sources = Counter(row["source"] for row in rows)
    assert len(sources) >= 3
    assert min(sources.values()) >= 300
    words = sorted(len(row["text"].split()) for row in rows)
    assert words[-1] > 4 * words[0]


def test_no_held_out_document_is_a_training_document() -> None:
    held_out = set(held_out_texts())
    assert len(held_out) == HELD_OUT_DOCUMENTS
    assert TRAINING_DOCUMENTS > 10 * HELD_OUT_DOCUMENTS
    # No document is drawn twice by chance: each has a hundred nats or more. 2,000 are a sample.
    assert not held_out & {document.text for document in documents("training", 2000)}


def test_there_are_as_many_windows_as_statistics_need(model: LanguageModel) -> None:
    corpus = Corpus.from_texts(held_out_texts(), model.tokenizer, prepend_bos=True)
    assert len(corpus.tokens) >= 1024


def test_each_word_is_a_token(model: LanguageModel) -> None:
    for document in documents("held-out", 80):
        ids = model.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        assert [model.tokenizer.decode([token]) for token in ids] == list(pieces(document.words))


def test_the_clean_loss_is_little_above_the_entropy_of_the_text(model: LanguageModel) -> None:
    """The model is good, and not better than is possible."""
    (spec,) = load_specs(SPEC)
    corpus = build_corpus(spec.data, model.tokenizer, SPEC.parent)
    floors: dict[tuple[int, ...], float] = {}
    step = CONTEXT_SIZE - 1
    for document in held_out_documents():
        ids = model.tokenizer(document.text, add_special_tokens=False)["input_ids"]
        values = surprisals(document)
        for start in range(0, len(ids) - step + 1, step):
            # The first token is predicted at BOS, a position that is not scored.
            floors[tuple(ids[start : start + step])] = math.fsum(values[start + 1 : start + step])
    entropy = math.fsum(floors[tuple(window[1:])] for window in corpus.tokens.tolist())
    entropy /= int(corpus.scored.sum())
    clean = measure(model, load(SAES / "v2"), corpus, spec.hook)["ce_clean"]
    assert entropy < clean < 1.2 * entropy
