"""`build_corpus` cuts the text of each kind of source into the same windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sae_guard.corpus import build_corpus
from sae_guard.corpus.sources import module_sources
from sae_guard.corpus.windows import cut, encode
from sae_guard.errors import SetupError
from sae_guard.specs import read_data
from tests.helpers.tiny_models import TEXT

DOCUMENTS = [TEXT * 3, TEXT[::-1] * 2]


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write the same documents as text, JSON lines and tokens."""
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / f"{number}.txt").write_text(text)
    rows = [
        {"text": text, "input_ids": encode(text, tokenizer), "n": 1, "meta": {"set": name}}
        for text, name in zip(DOCUMENTS, ("arxiv", "books"), strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def block(**source: Any) -> dict[str, Any]:
    """Return a data block with a source."""
    return {"context": 8, "sequences": 6, "prepend_bos": True, **source}


def test_each_kind_of_source_gives_the_same_tokens(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    sources: list[dict[str, Any]] = [
        {"text": "*.txt"},
        {"text": ["1.txt", "0.txt"]},
        {"jsonl": "rows.jsonl"},
        {"tokens": "rows.jsonl"},
    ]
    corpora = [build_corpus(read_data(block(**s)), tokenizer, folder) for s in sources]
    assert len({corpus.sha256 for corpus in corpora}) == 1
    assert corpora[0].tokens.shape == (6, 8)
    assert corpora[0].identity["source"]["text"] == ["*.txt"]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ({"text": "*.txt"}, ["0.txt", "1.txt"]),
        ({"jsonl": "rows.jsonl"}, ["rows.jsonl"] * 2),
        ({"jsonl": "rows.jsonl", "source_field": "meta.set"}, ["arxiv", "books"]),
        ({"tokens": "rows.jsonl", "source_field": "meta.set"}, ["arxiv", "books"]),
        ({"dataset": "data", "source_field": "meta.set"}, ["arxiv", "books"]),
        ({"dataset": "data"}, ["data"] * 2),
        ({"modules": ["textwrap", "csv"]}, ["textwrap", "csv"]),
    ],
)
def test_each_window_has_the_source_of_its_document(
    folder: Path, tokenizer: PreTrainedTokenizerFast, source: dict[str, Any], names: list[str]
) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text((folder / "rows.jsonl").read_text())
    texts = DOCUMENTS
    if "modules" in source:
        texts = [text for _, text in module_sources(source["modules"])]
    corpus = build_corpus(read_data(block(**source, sequences=14)), tokenizer, folder)
    source_of = {
        window: name
        for text, name in zip(texts, names, strict=True)
        for window in cut([encode(text, tokenizer)], 8, 0)
    }
    assert len(corpus.sources) == 14
    assert list(corpus.sources) == [source_of[tuple(window)] for window in corpus.tokens.tolist()]
    assert set(corpus.sources) == set(names)


def test_a_dataset_is_read_only_as_far_as_needed(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (folder / "data").mkdir()
    rows = [{"text": DOCUMENTS[0]}] * 50 + [
        {"body": "a row without the field, which would be an error"}
    ]
    (folder / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_data(block(dataset="data", sequences=2))
    assert build_corpus(data, tokenizer, folder).tokens.shape == (2, 8)


def test_a_field_that_is_not_text_is_an_error(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(SetupError, match=r"field 'n' .*rows\.jsonl is int; allowed: text"):
        build_corpus(read_data(block(jsonl="rows.jsonl", field="n")), tokenizer, folder)


def test_a_data_block_from_python_is_checked_like_a_spec() -> None:
    with pytest.raises(SetupError) as error:
        read_data({"text": "a", "sequnces": 3})
    assert "unknown key 'sequnces' in `data`; did you mean sequences?" in str(error.value)
    assert "`data.prepend_bos` is missing" in str(error.value)
