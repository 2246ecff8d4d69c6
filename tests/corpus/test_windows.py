"""Windows, masks and hash of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sae_guard.corpus import Corpus, Document
from sae_guard.corpus.windows import cut, encode
from sae_guard.errors import SetupError

GPT2_LIKE = SimpleNamespace(bos_token_id=0, eos_token_id=0, pad_token_id=None)
documents = st.lists(st.lists(st.integers(1, 50), max_size=30), min_size=1, max_size=8)


def corpus(docs: Sequence[Sequence[int] | Document], **options: object) -> Corpus:
    """Cut documents into windows, by default of a BOS and three tokens."""
    settings = {"context": 4, "prepend_bos": True, **options}
    return Corpus.from_documents(docs, GPT2_LIKE, **settings)  # type: ignore[arg-type]


@given(documents, st.integers(2, 6), st.booleans())
def test_windows_are_consecutive_pieces_of_one_document(
    docs: list[list[int]], context: int, prepend: bool
) -> None:
    step = context - prepend
    expected = [
        (*([0] if prepend else []), *doc[i : i + step])
        for doc in docs
        for i in range(0, len(doc), step)
        if len(doc[i : i + step]) == step
    ]
    assert list(cut(docs, context, 0 if prepend else None)) == expected


def test_a_bos_at_the_start_of_a_document_is_not_doubled() -> None:
    assert list(cut([[0, 5, 6, 7, 8, 9, 10]], 4, 0)) == [(0, 5, 6, 7), (0, 8, 9, 10)]


@given(st.permutations([[i] * 3 for i in range(1, 9)]), st.integers(0, 3))
def test_the_selection_does_not_depend_on_the_order_of_documents(
    docs: list[list[int]], seed: int
) -> None:
    ordered = corpus(sorted(docs), sequences=4, seed=seed)
    assert torch.equal(corpus(docs, sequences=4, seed=seed).tokens, ordered.tokens)


def test_another_seed_selects_other_windows() -> None:
    docs = [[i] * 3 for i in range(1, 50)]
    hashes = {corpus(docs, sequences=4, seed=seed).sha256 for seed in range(5)}
    assert len(hashes) == 5


@given(st.data(), documents.filter(lambda docs: any(len(doc) >= 3 for doc in docs)), st.integers())
def test_sources_belong_to_their_windows_and_do_not_change_the_selection(
    data: st.DataObject, docs: list[list[int]], seed: int
) -> None:
    names = [data.draw(st.sampled_from("abc")) for _ in docs]
    with_sources = [Document(doc, name) for doc, name in zip(docs, names, strict=True)]
    plain = corpus(docs, seed=seed)
    few = data.draw(st.integers(1, len(plain.tokens)))
    selection = corpus(with_sources, sequences=few, seed=seed)
    assert selection.sha256 == corpus(docs, sequences=few, seed=seed).sha256
    assert selection.identity == corpus(docs, sequences=few, seed=seed).identity
    assert plain.sources == ()
    possible_sources: dict[tuple[int, ...], list[str]] = {}
    for doc, name in zip(docs, names, strict=True):
        for window in cut([doc], 4, 0):
            possible_sources.setdefault(window, []).append(name)
    for window, source in zip(selection.tokens.tolist(), selection.sources, strict=True):
        assert source in possible_sources[tuple(window)]
    shuffled = corpus(data.draw(st.permutations(with_sources)), sequences=few, seed=seed)
    assert shuffled.sources == selection.sources


def test_another_number_of_sources_than_windows_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 sources of 1 windows"):
        Corpus(torch.ones(1, 4, dtype=torch.int64), sources=("a", "b"))


def test_bos_is_not_patched_and_the_last_position_not_scored() -> None:
    c = corpus([[5, 6, 7]])
    assert c.tokens.tolist() == [[0, 5, 6, 7]]
    assert c.patched.tolist() == [[False, True, True, True]]
    assert c.scored.tolist() == [[False, True, True, False]]


def test_special_tokens_can_be_included_or_given_by_id() -> None:
    assert corpus([[5, 6, 7]], special_tokens="include").scored.tolist() == [
        [True, True, True, False]
    ]
    assert corpus([[5, 6, 7]], special_tokens=[0, 6]).scored.tolist() == [
        [False, True, False, False]
    ]


def test_the_hash_depends_on_tokens_and_masks() -> None:
    docs = [[5, 6, 7, 1], [8, 9, 10, 1]]
    original = corpus(docs)
    assert corpus(docs).sha256 == original.sha256
    changed = [
        corpus(docs, special_tokens="include"),
        corpus([[5, 6, 7, 1], [8, 9, 11, 1]]),
        corpus(docs, prepend_bos=False),
        corpus(docs, sequences=1),
    ]
    assert len({original.sha256, *(c.sha256 for c in changed)}) == 5


def test_too_few_windows_are_an_error_with_their_number() -> None:
    with pytest.raises(SetupError, match="2 windows of 4 tokens, but 3 are needed"):
        corpus([[5, 6, 7, 8, 9, 10]], sequences=3)
    with pytest.raises(SetupError, match="0 windows of 4 tokens, but at least 1"):
        corpus([[5]])


def test_a_bos_inside_a_window_is_an_error_with_its_position() -> None:
    with pytest.raises(SetupError, match=r"window 0 .*\(id 0\) at position 2"):
        corpus([[5, 0, 7]])
    assert corpus([[5, 0, 7, 8]], prepend_bos=False).patched.tolist() == [[True, False, True, True]]


def test_prepend_bos_without_a_bos_token_is_an_error() -> None:
    none = SimpleNamespace(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    with pytest.raises(SetupError, match=r"no BOS token.*prepend_bos: false"):
        Corpus.from_documents([[1, 2, 3]], none, context=3, prepend_bos=True)


def test_a_special_token_in_a_text_is_encoded_as_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = encode("fox <|endoftext|> dog", tokenizer)
    assert tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids) == "fox <|endoftext|> dog"


def test_each_text_is_a_document(tokenizer: PreTrainedTokenizerFast) -> None:
    c = Corpus.from_texts(["the quick brown fox " * 9] * 2, tokenizer, context=8, prepend_bos=True)
    assert c.tokens.shape[1] == 8
    assert c.identity["n_sequences"] == len(c.tokens)
    assert c.identity["prepend_bos"] is True
