"""Token ids → the text that people read in failures and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sae_guard.core.measurement import Around, Excerpts
from sae_guard.corpus.windows import Corpus

_BEFORE = 12
"""Tokens of text before the one in question."""
_BEGINNING = 48
"""Tokens of a sequence by which it is recognised."""


def excerpts(
    corpus: Corpus, tokenizer: Any, tokens: Iterable[tuple[int, int]], sequences: Iterable[int]
) -> Excerpts:
    """The text at some places of the corpus.

    Args:
        corpus: The token set.
        tokenizer: The Hugging Face tokenizer; without one there is no text.
        tokens: Sequence and position of each; not the last position, which nothing follows.
        sequences: Of these, how they begin.
    """
    if tokenizer is None:
        return Excerpts()
    return Excerpts(
        {place: _around(corpus.tokens[place[0]].tolist(), place[1], tokenizer) for place in tokens},
        {
            index: _pieces(tokenizer, corpus.tokens[index, :_BEGINNING].tolist())[0]
            for index in sequences
        },
    )


def _around(ids: list[int], position: int, tokenizer: Any) -> Around:
    before = ids[max(0, position - _BEFORE) : position]
    return Around(*_pieces(tokenizer, before, [ids[position]], [ids[position + 1]]))


def _pieces(tokenizer: Any, *spans: Sequence[int]) -> list[str]:
    """The text of spans that follow each other; as it is in the whole, where it can be told.

    Alone, a token of SentencePiece would lose the space it begins with.
    """
    ids: list[int] = []
    text, pieces = "", []
    for span in spans:
        ids.extend(span)
        whole = _decoded(tokenizer, ids)
        # A character may be spread over tokens: until the last of them it is U+FFFD.
        cut = whole.startswith(text) and not text.endswith("\ufffd")
        pieces.append(whole[len(text) :] if cut else _decoded(tokenizer, span))
        text = whole
    return pieces


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    try:
        text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    except (TypeError, ValueError, LookupError, OverflowError):
        return ""  # ids that the model has and the tokenizer lacks: no text, and no reason to fail
    return text
