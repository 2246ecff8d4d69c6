"""Excerpts have the text of the tokens and sequences of a corpus."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_guard.core.measurement import Around, Excerpts
from sae_guard.corpus import Corpus, excerpts
from tests.helpers.tiny_models import TEXT


def windows(tokenizer: Any, text: str, context: int = 24) -> Corpus:
    """Cut a text into windows without BOS."""
    return Corpus.from_texts([text], tokenizer, context=context, prepend_bos=False)


def test_an_excerpt_joins_to_the_text_of_its_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = windows(tokenizer, TEXT * 9)
    places = [(0, position) for position in range(23)]
    result = excerpts(corpus, tokenizer, places, [0])
    ids = corpus.tokens[0].tolist()
    for (_, position), around in result.tokens.items():
        span = ids[max(0, position - 12) : position + 2]
        assert "".join(around) == tokenizer.decode(span)
        assert around.token == tokenizer.decode(ids[position])
        assert around.next == tokenizer.decode(ids[position + 1])
    assert list(result.tokens) == places
    assert result.sequences == {0: tokenizer.decode(ids)}


def test_a_long_sequence_has_only_its_beginning(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = windows(tokenizer, TEXT * 90, context=200)
    result = excerpts(corpus, tokenizer, [], [1])
    assert result.sequences[1] == tokenizer.decode(corpus.tokens[1, :48].tolist())


def test_a_character_of_several_tokens_is_decoded(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    corpus = windows(tokenizer, "日本語€" * 9)
    result = excerpts(corpus, tokenizer, [(0, position) for position in range(23)], [0])
    assert all(around.token and around.next for around in result.tokens.values())
    assert "日本語€" in result.sequences[0]


def test_a_space_at_the_start_of_a_token_is_not_lost() -> None:
    """A token of SentencePiece that is decoded by itself has no leading space."""
    bpe = Tokenizer(models.WordLevel({"▁the": 0, "▁fox": 1, "es": 2, "<unk>": 3}, "<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    sentence_piece = PreTrainedTokenizerFast(tokenizer_object=bpe)  # type: ignore[no-untyped-call]
    assert sentence_piece.decode([1]) == "fox"
    corpus = Corpus(torch.tensor([[0, 1, 2, 1]]))
    result = excerpts(corpus, sentence_piece, [(0, 0), (0, 2)], [])
    assert result.tokens == {
        (0, 0): Around("", "the", " fox"), (0, 2): Around("the fox", "es", " fox"),
    }  # fmt: skip


def test_ids_that_the_tokenizer_lacks_have_no_text(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = Corpus(torch.tensor([[5, 6, 10_000, 7]]))
    result = excerpts(corpus, tokenizer, [(0, 1), (0, 2)], [0])
    assert result.tokens[0, 1] == Around("%", "&", "")

    class Strict:
        def decode(self, ids: list[int], **options: Any) -> str:
            raise TypeError(f"no text for {ids}")

    assert excerpts(corpus, Strict(), [(0, 1)], [0]) == Excerpts(
        {(0, 1): Around("", "", "")}, {0: ""}
    )
    assert excerpts(corpus, None, [(0, 1)], [0]) == Excerpts()
